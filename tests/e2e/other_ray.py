"""A Ray that is not Luthier's, and what runs on it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.e2e.live import SECONDS, free_ports, until


@contextmanager
def other_ray() -> Iterator[tuple[str, psutil.Process]]:
    """A Ray of somebody else: its address and its root process."""
    port, dashboard, agent, metrics, client = free_ports(5)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "include-dashboard": "false",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "metrics-export-port": metrics,
        "ray-client-server-port": client,
        "object-store-memory": 200_000_000,
        "num-cpus": 2,
    }
    with tempfile.TemporaryDirectory(prefix="oray-", ignore_cleanup_errors=True) as folder:
        command += [f"--{name}={value}" for name, value in {**options, "temp-dir": folder}.items()]
        process = subprocess.Popen(
            command,
            env=plain_environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        root = psutil.Process(process.pid)
        try:
            until(lambda: _answers(port), SECONDS, "the other Ray")
            yield f"127.0.0.1:{port}", root
        finally:
            tree = [root, *root.children(recursive=True)] if root.is_running() else []
            kill_all(tree)


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


def _answers(port: int) -> bool:
    code = f"import ray; ray.init('127.0.0.1:{port}', logging_level='ERROR'); print(ray.cluster_resources())"
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
