"""The cluster that `up` started: its record in the home, and the way to it."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from luthier.cli.ray_head import has_root_ended, ray_environment, session_logs
from luthier.errors import ClusterError, NotConnected
from luthier.platform.frozen import Frozen
from luthier.platform.settings import Settings
from luthier.platform.whole_files import write_whole

CONNECT_SECONDS = 60.0

Say = Callable[[str], None]
Answer = TypeVar("Answer")


class Cluster(Frozen):
    """The record of what `up` started; `down` goes by it alone."""

    id: str
    address: str
    root_pid: int | None
    """The Ray that we started, 0 before it is there; None when we joined one."""
    url: str
    dashboard: str | None
    base_models: tuple[str, ...]
    haproxy: bool = False
    """HAProxy is in front; otherwise Ray Serve's proxy in Python."""
    content: str = ""
    """Hash of the settings and the catalog that the gateway and the engines were started with."""


def read_record(settings: Settings) -> Cluster | None:
    file = record_file(settings)
    try:
        return Cluster.model_validate_json(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{file}, the record of what `luthier up` started, cannot be read. Remove it and what still runs of that "
            f"cluster (processes with LUTHIER_HOME={settings.home}), then run `luthier up`."
        ) from error


def write_record(settings: Settings, cluster: Cluster) -> None:
    write_whole(record_file(settings), cluster.model_dump_json(indent=2))


def record_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def is_gone(cluster: Cluster) -> bool:
    """The Ray that we started has ended, or never was there. One that we joined is not known of."""
    if not cluster.root_pid:
        return cluster.root_pid == 0
    return has_root_ended(cluster.root_pid, cluster.id)


def serve_logs(settings: Settings, cluster: Cluster) -> str:
    """Where they are."""
    if cluster.root_pid is not None:
        return str(session_logs(settings) / "serve")
    return f"session_latest/logs/serve of the Ray at {cluster.address}, on its nodes (in /tmp/ray unless set otherwise)"


def lock_file(settings: Settings) -> Path:
    """Held by an `up` or `down` that is at work."""
    return settings.home / "cluster.lock"


def set_environment(settings: Settings, address: str | None) -> None:
    """Must happen before anything imports ray. A Ray that we join keeps the user's own settings."""
    if address is None:
        os.environ.update(ray_environment(settings))


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """A driver on the cluster."""
    import ray

    told = {"namespace": "luthier", "log_to_driver": False, "logging_level": "ERROR"}
    attempt = begun(lambda: ray.init(cluster.address, **told))
    try:
        attempt.result(CONNECT_SECONDS)
    except KeyboardInterrupt:
        wait([attempt], CONNECT_SECONDS)  # else it would be in the way of who takes our parts off
        ray.shutdown()
        raise
    except TimeoutError:
        raise _not_connected(cluster, f"no answer within {CONNECT_SECONDS:.0f} s") from None
    except Exception as error:  # whatever Ray says of it
        raise _not_connected(cluster, (str(error) or type(error).__name__).splitlines()[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def _not_connected(cluster: Cluster, reason: str) -> NotConnected:
    return NotConnected(f"Cannot connect to Ray at {cluster.address}: {reason}")


def in_time(call: Callable[[], Answer], seconds: float) -> Answer:
    """What it gives; TimeoutError when Ray hangs: the thread is left to that."""
    return begun(call).result(seconds)


def begun(call: Callable[[], Answer]) -> Future[Answer]:
    """In a thread that keeps no process from its end."""
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # whatever Ray says of it, it is handed to who waits
            answer.set_exception(error)
        except BaseException as error:  # SystemExit is the thread's end, not that of who waits
            answer.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    threading.Thread(target=run, daemon=True).start()
    return answer
