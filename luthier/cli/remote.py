"""What the objects of the Python client share: the way to the server, and the paths of the native API."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from luthier.cli.client import Client

Row = dict[str, Any]
Rows = list[Row]


class Remote:
    """Something that a server has."""

    def __init__(self, client: "Client") -> None:
        self._client = client


class RemoteKind(Remote):
    """All of one kind, which is the path's first part: users, schemas, ..."""

    def __init__(self, client: "Client", kind: str) -> None:
        super().__init__(client)
        self._kind = kind


def path_of(*parts: str) -> str:
    """In the native API."""
    return "/".join(("/luthier/v1", *(quote(part, safe="") for part in parts)))


def given(**values: Any) -> Row:
    """Those that are not None."""
    return {name: value for name, value in values.items() if value is not None}
