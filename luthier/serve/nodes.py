"""The nodes of the cluster, and which engines wait for another one: for who runs the platform."""

from luthier.platform.frozen import Frozen


class Node(Frozen):
    id: str
    name: str
    """By `ray start --node-name`; else its address."""
    address: str
    is_lost: bool
    resources: dict[str, float]
    """Empty for one that is lost."""


class Nodes(Frozen):
    nodes: list[Node] = []
    waiting: dict[str, str] = {}
    """Of base models whose engines no node can hold: why."""

    def name_of(self, id: str) -> str:
        return next((node.name for node in self.nodes if node.id == id), id)
