"""A checkpoint becomes an adapter folder with results and manifest, named by content, renamed into place."""

import csv
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from luthier.platform.base_models import BaseModel
from luthier.platform.jobs import FinishedModel, Job
from luthier.platform.options import Method
from luthier.platform.run_files import MODEL, answer_lines
from luthier.platform.storage import Storage
from luthier.platform.weights.artifacts import content_of, place
from luthier.platform.weights.fingerprint import FINGERPRINT
from luthier.train.config import FitConfig, FitResult, StepRecord

RESULTS = "training_results.csv"
ANSWERS = "eval_prompts.jsonl"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def publish(job: Job, base: BaseModel, config: FitConfig, fit: FitResult, storage: Storage) -> FinishedModel:
    """Appears whole or not at all; the same checkpoint published twice is one folder."""
    assert fit.validation_loss is not None  # every job has validation rows
    part = storage.adapters / f"{job.id}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a supervisor that was killed here
    try:
        _fill(part, config, fit)
        content = content_of(part)
        final = place(part, content, _manifest(job, base, config, fit), storage.adapters)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return FinishedModel(
        path=str(final),
        sha256=content.sha256,
        rank=0 if config.method is Method.FULL else config.lora.rank,
        method=config.method,
        task_type=config.rendering.task_type,
        trained_tokens=fit.trained_tokens,
        evaluated_tokens=fit.evaluated_tokens,
        training_loss=fit.training_loss,
        validation_loss=fit.validation_loss,
    )


def copy_tokenizer(base_dir: Path, folder: Path) -> None:
    """Full weights are a base model of their own."""
    for name in TOKENIZER_FILES:
        if (base_dir / name).is_file():
            shutil.copy(base_dir / name, folder / name)


def _fill(folder: Path, config: FitConfig, fit: FitResult) -> None:
    """All but the manifest."""
    shutil.copytree(fit.checkpoint_dir / MODEL, folder)
    _write_results(folder / RESULTS, fit.history)
    if fit.fingerprint:
        shutil.copy(fit.fingerprint, folder / FINGERPRINT)
    if config.method is Method.FULL:
        copy_tokenizer(config.base_dir, folder)
    if config.eval_prompts:
        _write_answers(folder / ANSWERS, config.eval_prompts, fit.history)


def _write_results(file: Path, history: tuple[StepRecord, ...]) -> None:
    """step, epoch, training_loss, validation_loss; the last only on an epoch's last step."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["step", "epoch", "training_loss", "validation_loss"])
        for record in history:
            validation = "" if record.validation_loss is None else record.validation_loss
            writer.writerow([record.step, record.epoch, record.training_loss, validation])


def _write_answers(file: Path, prompts: tuple[str, ...], history: tuple[StepRecord, ...]) -> None:
    told = (answer_lines(record.step, prompts, record.answers) for record in history if record.answers)
    file.write_text("".join(told))


def _manifest(job: Job, base: BaseModel, config: FitConfig, fit: FitResult) -> dict[str, object]:
    packages = ("torch", "transformers", "peft", "ray")
    return {
        "job_id": job.id,
        "model": job.model,
        "base_model": base.origin,
        "data": {name: job.report[name] for name in ("train_sha256", "validation_sha256", "rows", "validation_rows")},
        "options": job.options.model_dump(mode="json"),
        "lora": None if config.method is Method.FULL else config.lora.model_dump(mode="json"),
        "seed": config.seed,
        "trained_tokens": fit.trained_tokens,
        "evaluated_tokens": fit.evaluated_tokens,
        "training_loss": fit.training_loss,
        "validation_loss": fit.validation_loss,
        "versions": {
            "luthier": version("luthier"),
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
    }
