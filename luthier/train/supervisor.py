"""One detached actor a job: runs it in a thread, and again after any restart; killed, it takes the run down with it."""

import logging
import threading

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from luthier.errors import InvalidInput, LossDiverged, LuthierError, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.jobs import JobError, JobStatus
from luthier.platform.queue import Capacity
from luthier.platform.registry.actor import NAMESPACE, RegistryClient
from luthier.platform.settings import Settings

log = logging.getLogger(__name__)


class Supervisor:
    """Holds no truth: the job stands in the registry, the run's state in its checkpoints."""

    def __init__(self, settings: Settings, job_id: str) -> None:
        self._settings, self._job_id = settings, job_id
        self._me = ray.get_runtime_context().current_actor
        threading.Thread(target=self._run, daemon=True).start()

    def ready(self) -> None:
        """Returns when the actor is up."""

    def _run(self) -> None:
        from luthier.train.run_job import TrainEnv, run_job

        registry = RegistryClient()
        jobs = registry.jobs
        try:
            job = jobs.run(self._job_id)
            if job.status is JobStatus.IN_PROGRESS:
                resources = ray.cluster_resources()
                env = TrainEnv(
                    self._settings, jobs, registry.models, int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
                )
                run_job(job, env)
        except (RayActorError, Unavailable):  # the run or the registry is gone: the job starts again from a checkpoint
            log.exception("job %s was lost", self._job_id)
        except Exception as error:  # the edge of a run: whatever ended it is the job's reason
            log.exception("job %s failed", self._job_id)
            code, message = _reason(error)
            jobs.fail(
                self._job_id,
                JobError(code=code, message=message),
                billable=isinstance(error, InvalidInput | LossDiverged),
            )
        finally:
            ray.kill(self._me)


class RayLauncher:
    """Starts, finds and ends supervisors by name. Used by the registry's actor."""

    def __init__(self, settings: Settings) -> None:
        catalog = load_catalog(settings)
        self._settings = settings
        self._engine_gpus = sum(catalog.get(name).engine.num_gpus for name in settings.serve_base_models)

    def capacity(self) -> Capacity:
        """What the nodes have together; each worker of a run takes a GPU, or a CPU where there is no GPU.

        The GPUs of the engines are never free for training.
        """
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        free = max(0, gpus - self._engine_gpus) if gpus else cpus
        jobs = self._settings.max_running_jobs or max(1, free if gpus else cpus // 2)
        return Capacity(jobs=jobs, workers=free, unit="GPU" if gpus else "CPU")

    def is_alive(self, job_id: str) -> bool:
        """Alive, starting or restarting."""
        return _find(job_id) is not None

    def launch(self, job_id: str) -> None:
        actor = ray.remote(Supervisor).options(
            name=job_id,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=0,  # the registry starts another: Ray frees what a dead actor held, not a restarted one
            max_concurrency=2,
        )
        actor.remote(self._settings, job_id)

    def stop(self, job_id: str) -> None:
        """Ends the supervisor; the run's controller and workers are its own and go with it."""
        if (actor := _find(job_id)) is not None:
            ray.kill(actor)


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
