"""The end of a cluster: what is under way is answered, then its processes end, or our parts leave another's Ray."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from luthier.cli.cluster_record import CONNECT_SECONDS, Cluster, Say, begun, connected, in_time, is_gone, record_file
from luthier.cli.front import clear_away
from luthier.cli.ray_head import end_processes
from luthier.errors import NotConnected
from luthier.platform.settings import Settings

ANSWER_SECONDS = 60.0
"""How long what is under way may take."""
TELL_SECONDS = 15.0
"""For Ray to say so, beyond that."""
LEAVE_SECONDS = 45.0
"""For a Ray that is not ours to let go of the doors, the registry and the jobs. More than `cut_off_doors` waits."""

Leave = Callable[[Cluster, Say], bool]


def let_end(cluster: Cluster, say: Say) -> bool:
    """Nothing new comes in, what is under way is answered, usage is told, batches are let go. Not for ever.

    False when there is no Ray.
    """
    if is_gone(cluster):
        return False
    say(f"waiting up to {ANSWER_SECONDS:.0f} s for what is under way (`luthier down --now` does not)")
    try:
        with connected(cluster):
            from luthier.serve.app import end_doors

            left = in_time(lambda: end_doors(cluster.base_models, ANSWER_SECONDS), ANSWER_SECONDS + TELL_SECONDS)
    except Exception as error:  # a cluster that is at fault is stopped all the same
        say(f"not waiting: {_reason(error)}")
        if not isinstance(error, NotConnected):
            return True
        if cluster.root_pid is None:
            say(_may_be_left(cluster))
        return False
    if left:
        say(f"cutting off what {', '.join(left)} still {'answers' if len(left) == 1 else 'answer'}")
    return True


def leave(cluster: Cluster, say: Say) -> bool:
    """Takes our parts off a Ray that is not ours, and says which may be left there. False when one may."""
    try:
        with connected(cluster):
            return _take_off(cluster, say)
    except NotConnected as error:
        say(f"{_may_be_left(cluster)}. {error}")
        return False


def leave_apart(cluster: Cluster, say: Say) -> bool:
    """The same in a process of its own: one that Ctrl-C came to may hold a lock for ever, that of logging as a rule."""
    leaving = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with leaving:
        try:
            told, _ = leaving.communicate(cluster.model_dump_json(), CONNECT_SECONDS + LEAVE_SECONDS + TELL_SECONDS)
        except BaseException as error:  # Ctrl-C again
            leaving.kill()
            say(_may_be_left(cluster))
            if isinstance(error, subprocess.TimeoutExpired):
                return False
            raise
    for line in told.splitlines() if told or not leaving.returncode else [_may_be_left(cluster)]:
        say(line)
    return leaving.returncode == 0


def end(settings: Settings, cluster: Cluster, say: Say, *, is_there: bool = True, leave: Leave = leave) -> bool:
    """At once. A Ray of another's that is not there is not looked for.

    False when one that should be there cannot be reached, or keeps a part of ours: the record of them stays.
    """
    if cluster.root_pid is not None:
        end_processes(cluster.id)
        clear_away(settings, cluster.id)
    elif is_there and not leave(cluster, say):
        return False
    record_file(settings).unlink(missing_ok=True)
    return True


def _take_off(cluster: Cluster, say: Say) -> bool:
    """Whether all went."""
    from luthier.platform.registry.actor import stop_registry
    from luthier.serve.app import cut_off_doors

    def stop_jobs() -> None:
        stop_registry()  # first: it would start them again
        _end_actors()

    parts = {
        "the gateway and engines": begun(lambda: cut_off_doors(cluster.base_models)),
        "the registry and jobs": begun(stop_jobs),
    }
    until, has_all = time.monotonic() + LEAVE_SECONDS, True
    for what, taken_off in parts.items():
        try:
            taken_off.result(max(0.0, until - time.monotonic()))
        except Exception as error:  # the other parts go all the same
            say(f"{what} may be left on Ray at {cluster.address}: {_reason(error)}")
            has_all = False
    return has_all


def _end_actors() -> None:
    """All in our namespace."""
    import ray

    from luthier.platform.registry.actor import NAMESPACE

    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE:
            with suppress(ValueError):  # it has ended meanwhile
                ray.kill(ray.get_actor(actor["name"], namespace=NAMESPACE))


def _reason(error: Exception) -> str:
    return str(error) or "Ray does not answer"


def _may_be_left(cluster: Cluster) -> str:
    return f"what was started on Ray at {cluster.address} may be left there"


if __name__ == "__main__":
    sys.exit(not leave(Cluster.model_validate_json(sys.stdin.read()), print))
