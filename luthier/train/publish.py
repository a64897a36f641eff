"""A checkpoint becomes an adapter folder with results and manifest, named by content, renamed into place."""

import csv
import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from luthier.platform.base_models import BaseModel
from luthier.platform.jobs import FinishedModel, Job
from luthier.platform.options import Method
from luthier.platform.run_files import MODEL, answer_lines
from luthier.platform.storage import Storage, file_sha256
from luthier.train.config import FitConfig, FitResult, StepRecord

MANIFEST = "luthier.json"
RESULTS = "training_results.csv"
ANSWERS = "eval_prompts.jsonl"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def publish(job: Job, base: BaseModel, config: FitConfig, fit: FitResult, storage: Storage) -> FinishedModel:
    """Appears whole or not at all; the same checkpoint published twice is one folder."""
    assert fit.validation_loss is not None  # every job has validation rows
    part = storage.adapters / f"{job.id}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a supervisor that was killed here
    try:
        files = _fill(part, config, fit)
        sha256 = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        (part / MANIFEST).write_text(json.dumps(_manifest(job, base, config, fit, files), indent=2))
        final = storage.adapters / sha256
        if not final.exists():
            os.replace(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return FinishedModel(
        path=str(final),
        sha256=sha256,
        rank=0 if config.method is Method.FULL else config.lora.rank,
        method=config.method,
        task_type=config.rendering.task_type,
        trained_tokens=fit.trained_tokens,
        training_loss=fit.training_loss,
        validation_loss=fit.validation_loss,
    )


def copy_tokenizer(base_dir: Path, folder: Path) -> None:
    """Full weights are a base model of their own."""
    for name in TOKENIZER_FILES:
        if (base_dir / name).is_file():
            shutil.copy(base_dir / name, folder / name)


def _fill(folder: Path, config: FitConfig, fit: FitResult) -> dict[str, str]:
    """All but the manifest; the hash of each file."""
    shutil.copytree(fit.checkpoint_dir / MODEL, folder)
    _write_results(folder / RESULTS, fit.history)
    if config.method is Method.FULL:
        copy_tokenizer(config.base_dir, folder)
    if config.eval_prompts:
        _write_answers(folder / ANSWERS, config.eval_prompts, fit.history)
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir())}


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


def _manifest(job: Job, base: BaseModel, config: FitConfig, fit: FitResult, files: dict[str, str]) -> dict[str, object]:
    packages = ("torch", "transformers", "peft", "ray")
    return {
        "job_id": job.id,
        "model": job.model,
        "base_model": {"name": base.name, "hf": base.hf, "revision": base.revision, "licence": base.licence},
        "data": {name: job.report[name] for name in ("train_sha256", "validation_sha256", "rows", "validation_rows")},
        "options": job.options.model_dump(mode="json"),
        "lora": None if config.method is Method.FULL else config.lora.model_dump(mode="json"),
        "seed": config.seed,
        "trained_tokens": fit.trained_tokens,
        "training_loss": fit.training_loss,
        "validation_loss": fit.validation_loss,
        "versions": {
            "luthier": version("luthier"),
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "sha256": files,
    }
