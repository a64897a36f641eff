"""The local Ray that `luthier up` starts: its processes, its token, its end. Touches no other Ray on the machine."""

import hashlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from luthier.cli.words import last_words
from luthier.errors import ClusterError
from luthier.platform.settings import Settings
from luthier.platform.whole_files import made_once

MARK = "LUTHIER_CLUSTER"
"""Environment variable that every process of a cluster inherits: how its own are told from others."""
START_SECONDS = 60.0
TRACKER_SECONDS = 3.0
STOP_SECONDS = 15.0
OBJECT_STORE_BYTES = 300_000_000
NUM_PORTS = 3
FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
"""Of glibc's malloc, which by itself has eight for each core. Each keeps a peak of its own: processes with as many
threads as Ray's would rise through ten thousand requests and more."""


def ray_environment(settings: Settings) -> dict[str, str]:
    """What must stand in the environment before `import ray`, in the cluster's processes and in its clients alike."""
    return {
        # The name misleads: 0 makes every listener of Ray bind to 127.0.0.1, on Linux too.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token_file(settings)),
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # A replica that hangs would else hold its GPU for as long as one that is replaced may finish its answers.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # Ray runs its workers at nice 15: any other program then stalls training and serving, whose threads wait for
        # each other, far beyond its share.
        "RAY_worker_niceness": "0",
    }


def head_environment(settings: Settings, cluster_id: str, own: dict[str, str]) -> dict[str, str]:
    """What all processes of the cluster have, `own` among it."""
    home = {"LUTHIER_HOME": str(settings.home), "LUTHIER_CACHE": str(settings.cache), MARK: cluster_id}
    return {**FEW_ARENAS, **os.environ, **ray_environment(settings), **own, **home}


def start_ray(settings: Settings, cluster_id: str, environment: dict[str, str], ports: range) -> int:
    """Starts a head node, its processes with this environment too; the pid of its root process once it listens.

    `ports` are NUM_PORTS, for those of its parts that end it when their port is taken: none that systems give to
    clients, as Ray listens there seconds later.
    """
    made_once(_token_file(settings), lambda: secrets.token_hex(32).encode())
    file = ray_log(settings)
    file.parent.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *_options(settings, ports)]
    with file.open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=head_environment(settings, cluster_id, environment),
        )
    deadline = time.monotonic() + START_SECONDS
    while not is_listening(settings.ray_port):
        has_ended = process.poll() is not None
        if has_ended or time.monotonic() > deadline:
            end_processes(cluster_id)
            late = f"it does not listen after {START_SECONDS:.0f} s, so the machine may be too busy"
            reason = ray_words(settings) if has_ended else late
            raise ClusterError(f"Ray did not start: {reason}. {file} has more; then run `luthier up` again.")
        time.sleep(0.1)
    return process.pid


def ray_log(settings: Settings) -> Path:
    """What the Ray that was started last has said; its parts have theirs in `session_logs`."""
    return settings.home / "logs" / "ray.log"


def ray_words(settings: Settings) -> str:
    """Its last ones, where it has ended."""
    last = ray_log(settings).read_text(errors="replace").splitlines()[-10:]
    return last_words("\n".join(last), silence="its log does not say why; it may have been killed for its memory")


def session_logs(settings: Settings) -> Path:
    return _temp_dir(settings) / "session_latest" / "logs"


def end_processes(cluster_id: str) -> None:
    """Kills the root process and all it started. Haste loses nothing: jobs and usage are on disk before they count."""
    own = _own_processes(cluster_id)
    # A resource tracker gives back the shared memory of killed processes and ends; Ray's own exit would kill it first.
    _kill([process for process in own if not _is_tracker(process)])
    psutil.wait_procs([process for process in own if _is_tracker(process)], timeout=TRACKER_SECONDS)
    _kill({*own, *_own_processes(cluster_id)})


def has_root_ended(root_pid: int, cluster_id: str) -> bool:
    """For certain: one that cannot be looked into may be alive, unless nothing but its exit status is left of it."""
    try:
        process = psutil.Process(root_pid)
        try:
            return bool(process.environ().get(MARK) != cluster_id)
        except psutil.AccessDenied:  # a zombie's environment is root's
            return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _own_processes(cluster_id: str) -> list[psutil.Process]:
    """Those that are marked, the root among them, and the trees under them."""
    found = {process for process in psutil.process_iter() if _is_marked(process, cluster_id)}
    for process in list(found):
        found.update(_children(process))
    found.discard(psutil.Process())
    return list(found)


def _is_marked(process: psutil.Process, cluster_id: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == cluster_id)
    except psutil.Error:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _kill(processes: Iterable[psutil.Process]) -> None:
    """Returns when they have ended."""
    killed = list(processes)
    for process in killed:
        with suppress(psutil.NoSuchProcess):  # it ended by itself in between
            process.kill()
    psutil.wait_procs(killed, timeout=STOP_SECONDS)


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _options(settings: Settings, ports: range) -> list[str]:
    agent, metrics, client = ports
    return [
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        f"--port={settings.ray_port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={settings.dashboard_port}",
        f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}",
        f"--ray-client-server-port={client}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={_temp_dir(settings)}",
    ]


def _temp_dir(settings: Settings) -> Path:
    """Short, as Ray's unix sockets lie in it (107 bytes at most), and the home's own."""
    name = hashlib.sha256(str(settings.home.resolve()).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"luthier-{name}"


def _token_file(settings: Settings) -> Path:
    return settings.home / "ray.token"
