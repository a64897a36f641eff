"""What a run may begin with instead of fresh weights: a model of the caller's, or the last checkpoint of a job."""

from pathlib import Path

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions, Method
from luthier.platform.registry.jobs import Jobs
from luthier.platform.registry.models import Models
from luthier.platform.run_files import MODEL, RunFiles
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage


class StartingPoint(Frozen):
    """Weights on disk."""

    path: Path
    base_model: str
    method: Method
    rank: int
    """0 for full weights."""


def starting_point(
    caller: Caller, options: FinetuneOptions, settings: Settings, models: Models, jobs: Jobs
) -> StartingPoint:
    """Of options.continue_from; NotFound or Conflict when there are no weights of that name."""
    assert options.continue_from
    if options.continue_from.startswith("ft_") and "-" in options.continue_from:  # no model's name has a dash
        return _of_job(caller, options.continue_from, Storage(settings.storage), jobs)
    version = models.get(caller, parse_name(options.continue_from, settings.database, settings.schema_name))
    return StartingPoint(
        path=Path(version.path), base_model=version.base_model, method=version.method, rank=version.rank
    )


def _of_job(caller: Caller, job_id: str, storage: Storage, jobs: Jobs) -> StartingPoint:
    job = jobs.get(caller, job_id)
    if not job.status.is_final:
        raise Conflict(f"Job {job_id} still runs: cancel it, or wait for its end, before you continue from it.")
    checkpoints = RunFiles(storage.runs / job_id).checkpoints()
    if not checkpoints:
        raise NotFound(f"Job {job_id} left no checkpoint to continue from.")
    rank = 0 if job.options.method is Method.FULL else job.options.lora_rank
    return StartingPoint(path=checkpoints[-1] / MODEL, base_model=job.base_model, method=job.options.method, rank=rank)
