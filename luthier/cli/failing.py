"""How `luthier up` fails: what it started ends, all that is known is in a log, one sentence says what to do."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from luthier.cli.cluster_record import Cluster, Say, begun, read_record
from luthier.cli.ending import end
from luthier.cli.ray_head import is_root_alive, ray_log, ray_words
from luthier.cli.words import last_words, plain
from luthier.errors import ClusterError, LuthierError, RayEnded
from luthier.platform.settings import Settings

LOOK_SECONDS = 0.5
AGAIN = "If the machine was too busy: run `luthier up` again."

Answer = TypeVar("Answer")


@contextmanager
def one_sentence(settings: Settings, what: str) -> Iterator[None]:
    """`what` did not happen. Errors of ours say by themselves what to do."""
    try:
        yield
    except LuthierError:
        raise
    except Exception as error:  # of Ray, of Serve, of the system: nobody has to read a traceback to know what to do
        log = note(settings, "".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {last_words(str(error))}"
        raise ClusterError(f"{what}: {reason}. {log} has all that is known. {AGAIN}") from error


@contextmanager
def whole_or_not_at_all(settings: Settings, say: Say) -> Iterator[None]:
    """What fails within ends all that the record names."""
    try:
        yield
    except BaseException as error:
        cluster = read_record(settings)
        if cluster is None:
            raise
        has_gone = is_gone(cluster)
        say("stopping what was started")
        end(settings, cluster, say)
        if has_gone and isinstance(error, Exception):
            raise RayEnded(
                f"Ray ended while Luthier started: {ray_words(settings)}. {ray_log(settings)} has more. {AGAIN}"
            ) from error
        raise


def watched(cluster: Cluster, call: Callable[[], Answer]) -> Answer:
    """What it gives. A Ray that has ended would end its driver a minute later, and nobody would stop what is left."""
    answer = begun(call)
    while not answer.done():
        wait([answer], LOOK_SECONDS)
        if is_gone(cluster):
            raise RayEnded("Ray ended.")
    return answer.result()


def is_gone(cluster: Cluster) -> bool:
    """The Ray that we started."""
    return bool(cluster.root_pid) and not is_root_alive(cluster.root_pid or 0, cluster.id)


def note(settings: Settings, text: str) -> Path:
    """The log that has it now."""
    log = settings.home / "logs" / "up.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as out:
        out.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {plain(text)}\n")
    return log
