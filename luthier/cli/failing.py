"""How `luthier up` fails: what it started ends, all that is known is in a log, one sentence says what to do."""

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from luthier.cli.cluster_record import Cluster, Say, begun, is_gone
from luthier.cli.ending import end, leave, leave_apart
from luthier.cli.ray_head import ray_log, ray_words
from luthier.cli.words import last_words, plain
from luthier.errors import ClusterError, LuthierError, NotConnected, RayEnded
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
        noted = note(settings, "".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {last_words(str(error))}"
        raise ClusterError(f"{what}: {reason}. {noted} {AGAIN}") from error


@contextmanager
def whole_or_not_at_all(settings: Settings, cluster: Cluster, say: Say) -> Iterator[None]:
    """What fails within ends all that there is of the cluster."""
    try:
        yield
    except BaseException as error:
        has_ended = bool(cluster.root_pid) and is_gone(cluster)
        say("stopping what was started")
        way = leave_apart if isinstance(error, KeyboardInterrupt) else leave
        end(settings, cluster, say, is_there=not isinstance(error, NotConnected), leave=way)
        if has_ended and isinstance(error, Exception):
            raise RayEnded(
                f"Ray ended while Luthier started: {ray_words(settings)}. {ray_log(settings)} has more. {AGAIN}"
            ) from error
        raise


def watched(cluster: Cluster, call: Callable[[], Answer]) -> Answer:
    """What it gives. A Ray that has ended would end its driver a minute later, and nobody would stop what is left.

    On a Ray that we joined it is called in this thread: Ctrl-C ends its driver, before one that takes our parts off.
    """
    if cluster.root_pid is None:
        return call()
    answer = begun(call)
    while not answer.done():
        wait([answer], LOOK_SECONDS)
        if is_gone(cluster):
            raise RayEnded("Ray ended.")
    return answer.result()


def note(settings: Settings, text: str) -> str:
    """Into the log; a sentence that says so."""
    log = settings.home / "logs" / "up.log"
    try:
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as out:
            out.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {plain(text)}\n")
    except OSError as error:  # a full disk may be what is told of
        return f"{log} cannot be written ({error.strerror})."
    return f"{log} has all that is known."
