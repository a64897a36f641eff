"""The end of a cluster: what is under way is answered, then its processes end, or our parts leave another's Ray."""

from luthier.cli.cluster_record import Cluster, Say, connected, in_time, record_file
from luthier.cli.front import clear_away
from luthier.cli.ray_head import end_processes, is_root_alive
from luthier.errors import ClusterError
from luthier.platform.settings import Settings

ANSWER_SECONDS = 60.0
"""How long what is under way may take."""
TELL_SECONDS = 15.0
"""For Ray to say so, beyond that."""


def let_end(cluster: Cluster, say: Say) -> None:
    """Nothing new comes in, what is under way is answered, usage is told, batches are let go. Not for ever."""
    if cluster.root_pid is not None and not is_root_alive(cluster.root_pid, cluster.id):
        return
    say(f"waiting up to {ANSWER_SECONDS:.0f} s for what is under way (`luthier down --now` does not)")
    try:
        with connected(cluster):
            from luthier.serve.app import end_doors

            left = in_time(lambda: end_doors(cluster.base_models, ANSWER_SECONDS), ANSWER_SECONDS + TELL_SECONDS)
    except Exception as error:  # a cluster that is at fault is stopped all the same
        say(f"not waiting: {str(error) or 'Ray does not answer'}")
        return
    if left:
        say(f"cutting off what {', '.join(left)} still {'answers' if len(left) == 1 else 'answer'}")


def end(settings: Settings, cluster: Cluster) -> None:
    """At once."""
    if cluster.root_pid is not None:
        end_processes(cluster.root_pid, cluster.id)
        clear_away(settings, cluster.id)
    else:
        _leave(cluster)
    record_file(settings).unlink(missing_ok=True)


def _leave(cluster: Cluster) -> None:
    """Takes our parts off a Ray that is not ours; if that Ray is gone, so are they."""
    import ray

    try:
        with connected(cluster):
            from luthier.platform.registry.actor import NAMESPACE, stop_registry
            from luthier.serve.app import cut_off_doors

            cut_off_doors(cluster.base_models)
            stop_registry()
            for actor in ray.util.list_named_actors(all_namespaces=True):
                if actor["namespace"] == NAMESPACE:
                    ray.kill(ray.get_actor(actor["name"], namespace=NAMESPACE))
    except ClusterError:
        return
