"""READ FIRST: one job, from its frozen data to a published model. configure -> fit -> publish -> finish."""

from dataclasses import dataclass

from luthier.platform.base_models import BaseModel, base_model_dir, load_catalog
from luthier.platform.jobs import Job
from luthier.platform.registry.jobs import Jobs
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage
from luthier.train.config import FitConfig, LoraSettings
from luthier.train.launch import fit
from luthier.train.progress import Reporter
from luthier.train.publish import publish


@dataclass(frozen=True)
class TrainEnv:
    """Where a run takes place."""

    settings: Settings
    jobs: Jobs
    num_cpus: int
    num_gpus: int


def run_job(job: Job, env: TrainEnv) -> None:
    """Runs, or continues, a job to its end. What it raises ends the job in ERROR."""
    base = load_catalog(env.settings).get(job.base_model)
    config = configure(job, base, env)
    result = fit(config, Reporter(job, env.jobs))
    env.jobs.note(job.id, "TRAINED", f"{len(result.history)} steps, training loss {result.training_loss:.4f}")
    made = publish(job, base, config, result, Storage(env.settings.storage))
    env.jobs.finish(job.id, made)


def configure(job: Job, base: BaseModel, env: TrainEnv) -> FitConfig:
    """What the trainer is asked: the job's options on the base model's limits and this cluster's hardware."""
    storage = Storage(env.settings.storage)
    data, options = storage.job_dir(job.id), job.options
    return FitConfig(
        job_id=job.id,
        base_dir=base_model_dir(env.settings, base),
        train_file=data / "train.parquet",
        validation_file=data / "validation.parquet",
        storage_path=storage.runs,
        use_gpu=env.num_gpus > 0,
        threads=max(1, env.num_cpus),
        max_epochs=options.max_epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        lora=LoraSettings(rank=options.lora_rank, alpha=2 * options.lora_rank),
        max_prompt_tokens=base.prompt_tokens,
        max_completion_tokens=base.completion_tokens,
    )
