"""What a run may begin with instead of fresh weights: a model of the caller's, or the last checkpoint of a job."""

from pathlib import Path

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel
from luthier.platform.data.recipe import lora_of
from luthier.platform.frozen import Frozen
from luthier.platform.jobs import is_job_id
from luthier.platform.options import FinetuneOptions, Method
from luthier.platform.privileges import Action
from luthier.platform.registry.jobs import Jobs
from luthier.platform.registry.models import Models
from luthier.platform.run_files import MODEL, RunFiles
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage
from luthier.platform.versions import parse_model
from luthier.platform.weights.adapter_files import read_adapter
from luthier.platform.weights.lora import Modules, check_continues, targeted


class StartingPoint(Frozen):
    """Weights on disk."""

    path: Path
    base_model: str
    method: Method


def starting_point(
    caller: Caller, options: FinetuneOptions, settings: Settings, models: Models, jobs: Jobs
) -> StartingPoint:
    """Of options.continue_from; NotFound or Conflict when there are no weights of that name."""
    assert options.continue_from
    if is_job_id(options.continue_from):
        return _of_job(caller, options.continue_from, Storage(settings.storage), jobs)
    asked = parse_model(options.continue_from, settings.database, settings.schema_name)
    version = models.get(caller, *asked, to=Action.READ_ARTIFACTS)
    return StartingPoint(path=Path(version.path), base_model=version.base_model, method=version.method)


def check_fits(start: StartingPoint, options: FinetuneOptions, base: BaseModel, linear: Modules) -> None:
    """InvalidInput unless a run with these options can begin there. `linear` is empty where it is not known."""
    if start.base_model != base.name or start.method is not options.method:
        raise InvalidInput(
            f"Option continue_from = {options.continue_from!r}: that is {start.method} on {start.base_model}, "
            f"and this job is {options.method} on {base.name}."
        )
    if options.method is not Method.FULL:
        adapter, asked = read_adapter(start.path), lora_of(base, options)
        check_continues(adapter, asked, targeted(asked.targets, linear) if linear else adapter.modules)


def _of_job(caller: Caller, job_id: str, storage: Storage, jobs: Jobs) -> StartingPoint:
    job = jobs.get(caller, job_id, Action.CONTINUE_JOB)
    if not job.status.is_final:
        raise Conflict(f"Job {job_id} still runs: cancel it, or wait for its end, before you continue from it.")
    checkpoints = RunFiles(storage.runs / job_id).checkpoints()
    if not checkpoints:
        raise NotFound(f"Job {job_id} left no checkpoint to continue from.")
    return StartingPoint(path=checkpoints[-1] / MODEL, base_model=job.base_model, method=job.options.method)
