"""READ FIRST: one job, from its frozen data to a published model. configure -> fit -> publish -> finish."""

import logging
from dataclasses import dataclass
from pathlib import Path

from luthier.platform.base_models import BaseModel, base_model_dir, load_catalog
from luthier.platform.data.recipe import batch_of, lora_of, rendering_of, tokens_of_budget
from luthier.platform.jobs import EventType, Job
from luthier.platform.options import Learning
from luthier.platform.prices import PriceList
from luthier.platform.queue import Capacity
from luthier.platform.registry.jobs import Jobs
from luthier.platform.run_files import RunFiles
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage
from luthier.train.config import FitConfig
from luthier.train.launch import fit
from luthier.train.mlflow_model import Tuned
from luthier.train.mlflow_run import MlflowRun, tracked
from luthier.train.progress import Reporter
from luthier.train.publish import publish
from luthier.train.run_log import run_log

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainEnv:
    """Where a run takes place."""

    settings: Settings
    jobs: Jobs
    capacity: Capacity
    prices: PriceList
    """The registry's, by which it bills: the file may say others by now."""


def run_job(job: Job, env: TrainEnv) -> None:
    """Runs, or continues, a job to its end. What it raises ends the job in ERROR."""
    storage, settings = Storage(env.settings.storage), env.settings
    files = RunFiles(storage.runs / job.id)
    with (
        run_log(files.logs / "supervisor.log"),
        MlflowRun(settings.mlflow_tracking_uri, tracked(job, settings), files) as mlflow,
    ):
        log.info("job %s, attempt %d: model %s on %s", job.id, job.attempt, job.model, job.base_model)
        base = load_catalog(settings).get(job.base_model)
        config = configure(job, base, env)
        result = fit(config, Reporter(job, env.jobs, config))
        reached = f"{len(result.history)} steps, training loss {result.training_loss:.4f}"
        env.jobs.note(job.id, EventType.TRAIN_FINISHED, reached)
        made = publish(job, base, config, result, storage)
        env.jobs.finish(job.id, made)
        log.info("%s; published as %s", reached, made.sha256)
        mlflow.finish(Tuned(made=made, base=base, base_dir=config.base_dir))


def configure(job: Job, base: BaseModel, env: TrainEnv) -> FitConfig:
    """What the trainer is asked: the job's options on the base model's limits and this cluster's hardware."""
    storage, options = Storage(env.settings.storage), job.options
    data, how = storage.job_dir(job.id), rendering_of(base, job.options)
    num_workers = env.capacity.num_workers(options.num_workers, base.train_gpus)
    return FitConfig(
        job_id=job.id,
        base_dir=base_model_dir(env.settings, base),
        train_file=data / "train.parquet",
        validation_file=data / "validation.parquet",
        storage_path=storage.runs,
        num_workers=(num_workers, max(num_workers, options.max_workers)) if options.max_workers else num_workers,
        use_gpu=env.capacity.unit == "GPU",
        gpu_share=env.capacity.gpu_share,
        rendering=how,
        lora=lora_of(base, options),
        continue_from=Path(job.start_path) if job.start_path else None,
        duration=options.duration,
        max_trained_tokens=tokens_of_budget(options, base, env.prices),
        batch=batch_of(options, how),
        **options.model_dump(include=set(Learning.model_fields)),
    )
