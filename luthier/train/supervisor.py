"""One detached actor a job: runs it in a thread. Killed, it takes the run along, and the registry starts another."""

import logging
import math
import threading

import ray
from ray._common.utils import get_system_memory
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from luthier.errors import InvalidInput, LossDiverged, LuthierError, NotAllowed, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.jobs import JobError, JobStatus
from luthier.platform.memory import gpu_bytes
from luthier.platform.prices import PriceList, load_prices
from luthier.platform.queue import Capacity
from luthier.platform.registry.actor import NAMESPACE, registry_client
from luthier.platform.settings import Settings, configs_dir
from luthier.train.mlflow_run import mark_killed

log = logging.getLogger(__name__)

MOST_SHARED = 0.45
"""Of a GPU for small engines beside a worker."""
ACCELERATOR = "accelerator_type:"
"""What Ray puts before the kind of a node's GPUs among its resources."""


class Supervisor:
    """Holds no truth: the job stands in the registry, the run's state in its checkpoints."""

    def __init__(self, settings: Settings, job_id: str, capacity: Capacity, prices: PriceList) -> None:
        self._settings, self._job_id, self._capacity, self._prices = settings, job_id, capacity, prices
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        jobs = registry_client().jobs
        try:
            from luthier.train.run_job import TrainEnv, run_job

            job = jobs.run(self._job_id)
            if job.status is JobStatus.IN_PROGRESS:
                run_job(job, TrainEnv(self._settings, jobs, self._capacity, self._prices))
        except (RayActorError, Unavailable):  # the run or the registry is gone: the job starts again from a checkpoint
            log.exception("job %s was lost", self._job_id)
        except Exception as error:  # the edge of a run: whatever ended it is the job's reason
            log.exception("job %s failed", self._job_id)
            code, message = _reason(error)
            jobs.fail(self._job_id, JobError(code=code, message=message), is_billable(error))
        finally:
            ray.kill(self._me)


class RayLauncher:
    """Starts, finds and ends supervisors by name. Used by the registry's actor."""

    def __init__(self, settings: Settings) -> None:
        catalog = load_catalog(settings)
        self._settings = settings
        self._engines = [catalog.get(name).engine for name in settings.serve_base_models]
        self._has_gpus = False

    def capacity(self) -> Capacity:
        """What the nodes have together; each worker of a run takes a GPU, or a CPU where there never was a GPU.

        The GPUs of as many engines as always run are not free for training; of those of small ones it takes the rest.
        What an engine has beyond its `min_replicas` goes to whoever comes first.
        """
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        self._has_gpus = self._has_gpus or gpus > 0
        if not self._has_gpus:
            jobs = self._settings.max_running_jobs or max(1, cpus // 2)
            return Capacity(jobs=jobs, workers=cpus, unit="CPU", memory=_largest_node())
        shared = sum(engine.gpu_share * engine.min_replicas for engine in self._engines if engine.gpu_share < 1)
        whole = [engine for engine in self._engines if engine.gpu_share == 1]
        taken = sum(engine.tensor_parallel_size * engine.min_replicas for engine in whole)
        if shared > MOST_SHARED:  # two workers could meet on one GPU
            taken, shared = taken + math.ceil(shared), 0.0
        free = max(0, gpus - taken)
        jobs = self._settings.max_running_jobs or max(1, free)
        memory = gpu_bytes(_gpu_types())
        if memory and free == 1:  # of several, the engines may have others
            memory = int(memory * (1 - shared))
        return Capacity(jobs=jobs, workers=free, unit="GPU", gpu_share=1 - shared, memory=memory)

    def is_alive(self, job_id: str) -> bool:
        """Alive or starting."""
        return _find(job_id) is not None

    def launch(self, job_id: str, capacity: Capacity) -> None:
        actor = ray.remote(Supervisor).options(
            name=job_id,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,  # the registry starts another: Ray frees what a dead actor held, not a restarted one
        )
        actor.remote(self._settings, job_id, capacity, load_prices(configs_dir() / "prices.toml"))

    def stop(self, job_id: str) -> None:
        """Ends the supervisor; the run's workers are its own and go with it."""
        if (actor := _find(job_id)) is None:
            return
        ray.kill(actor)
        if uri := self._settings.mlflow_tracking_uri:  # a task of its own: the server may be slow, or away
            ray.remote(num_cpus=0)(mark_killed).remote(uri, self._settings.mlflow_experiment, job_id)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _largest_node() -> int | None:
    """Bytes: all of this node; of others what was free when Ray started there, objects' part with it."""
    sizes = [int(node["memory"] + node.get("object_store_memory", 0)) for node in _nodes() if "memory" in node]
    return max(get_system_memory(), *sizes) if sizes else None


def _gpu_types() -> list[str | None]:
    """Of each node with GPUs; None where Ray knows none."""
    names = [[name for name in node if name.startswith(ACCELERATOR)] for node in _nodes() if node.get("GPU")]
    return [found[0].removeprefix(ACCELERATOR) if found else None for found in names]


def is_billable(error: Exception) -> bool:
    """Whether a failure lies in the job's data or options, or in what its owner may."""
    return isinstance(error, InvalidInput | LossDiverged | NotAllowed)


def _find(job_id: str) -> ActorHandle | None:
    try:
        return ray.get_actor(job_id, namespace=NAMESPACE)
    except ValueError:
        return None


def _reason(error: Exception) -> tuple[str, str]:
    if isinstance(error, LuthierError):
        return error.code.upper(), error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "INTERNAL_ERROR", f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
