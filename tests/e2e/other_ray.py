"""A Ray that is not Luthier's, of one node or of several on this machine, and what runs on it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.e2e.live import SECONDS, free_ports, title_of, until

FIRST_PORT, PORTS_OF_WORKERS = 10_002, 2_000
START = """
from ray._private import ray_constants
from ray.scripts.scripts import main
ray_constants.ENABLE_RAY_CLUSTER = True
main()
"""
"""Ray's own command. What makes Ray listen on loopback alone makes it refuse to join another node, too."""


class RayNodes:
    """A Ray of somebody else: its head, and further nodes on this machine, by their names."""

    def __init__(self, folder: str) -> None:
        port, dashboard, client = free_ports(3)
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self.roots: dict[str, psutil.Process] = {}
        self._of_head = {
            "head": None,
            "port": port,
            "include-dashboard": "false",
            "dashboard-port": dashboard,
            "ray-client-server-port": client,
            "temp-dir": folder,
        }

    def start_head(self, num_cpus: int) -> psutil.Process:
        root = self._start("head", num_cpus, **self._of_head)
        until(lambda: _answers(self.address), SECONDS, "the other Ray")
        return root

    def join(self, name: str, num_cpus: int, **resources: float) -> psutil.Process:
        """Its proxy of Ray Serve has a port of its own, as the address is the head's."""
        (proxy,) = free_ports(1)
        own = {"address": self.address, "resources": json.dumps(resources)}
        return self._start(name, num_cpus, {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(proxy)}, **own)

    def kill(self, name: str) -> None:
        """The raylet first, then all that it started."""
        tree = self._tree(self.roots.pop(name))
        kill_all(sorted(tree, key=lambda process: process.name() != "raylet"))

    def roles(self, name: str, title: str) -> list[psutil.Process]:
        """Processes of a node whose title (Ray's own) names the role."""
        return [process for process in self._tree(self.roots[name]) if title in title_of(process)]

    def end(self) -> None:
        kill_all([process for root in self.roots.values() for process in self._tree(root)])

    def _start(
        self, name: str, num_cpus: int, environment: dict[str, str] | None = None, **options: object
    ) -> psutil.Process:
        agent, metrics = free_ports(2)
        ports = PORTS_OF_WORKERS * len(self.roots)
        options |= {
            "node-name": name,
            "node-ip-address": "127.0.0.1",
            "dashboard-agent-listen-port": agent,
            "metrics-export-port": metrics,
            "min-worker-port": FIRST_PORT + ports,  # of each node's own: two would give one port to two workers
            "max-worker-port": FIRST_PORT + ports + PORTS_OF_WORKERS - 1,
            "object-store-memory": 200_000_000,
            "num-cpus": num_cpus,
        }
        said = [f"--{key}" if value is None else f"--{key}={value}" for key, value in options.items()]
        process = subprocess.Popen(
            [sys.executable, "-c", START, "start", "--block", "--disable-usage-stats", *said],
            env=plain_environment() | (environment or {}),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.roots[name] = psutil.Process(process.pid)
        return self.roots[name]

    def _tree(self, root: psutil.Process) -> list[psutil.Process]:
        return [root, *root.children(recursive=True)] if root.is_running() else []


@contextmanager
def ray_nodes(num_cpus: int) -> Iterator[RayNodes]:
    """With a head that has so many CPUs, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="oray-", ignore_cleanup_errors=True) as folder:
        nodes = RayNodes(folder)
        try:
            nodes.start_head(num_cpus)
            yield nodes
        finally:
            nodes.end()


@contextmanager
def other_ray() -> Iterator[tuple[str, psutil.Process]]:
    """A Ray of one node: its address and its root process."""
    with ray_nodes(num_cpus=2) as nodes:
        yield nodes.address, nodes.roots["head"]


def plain_environment() -> dict[str, str]:
    """Of a user who runs Ray without tokens, on loopback."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LUTHIER_"))}
    return own | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def kill_all(processes: list[psutil.Process]) -> None:
    """Some end by themselves when the first are killed."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not psutil.wait_procs(processes, timeout=SECONDS)[1]


def _answers(address: str) -> bool:
    code = f"import ray; ray.init('{address}', logging_level='ERROR'); print(ray.cluster_resources())"
    try:
        return not subprocess.run(
            [sys.executable, "-c", code], env=plain_environment(), capture_output=True, timeout=60, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def actors_of(address: str) -> set[str]:
    code = (
        f"import ray; ray.init('{address}', logging_level='ERROR')\n"
        "print(*[actor['name'] for actor in ray.util.list_named_actors(all_namespaces=True)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return set(done.stdout.split())
