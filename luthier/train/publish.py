"""A checkpoint becomes an adapter folder with results and manifest, named by content, renamed into place."""

import csv
import hashlib
import json
import os
import platform
import shutil
import uuid
from importlib.metadata import version
from pathlib import Path

from luthier.platform.base_models import BaseModel
from luthier.platform.jobs import FinishedModel, Job
from luthier.platform.storage import Storage, file_sha256
from luthier.train.config import FitConfig, FitResult, StepRecord

MANIFEST = "luthier.json"
RESULTS = "training_results.csv"


def publish(job: Job, base: BaseModel, config: FitConfig, fit: FitResult, storage: Storage) -> FinishedModel:
    """Appears whole or not at all; the same checkpoint published twice is one folder."""
    part = storage.adapters / f"{uuid.uuid4().hex}.part"
    shutil.copytree(fit.checkpoint_dir / "adapter", part)
    _write_results(part / RESULTS, fit.history)
    files = {file.name: file_sha256(file) for file in sorted(part.iterdir())}
    sha256 = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    (part / MANIFEST).write_text(json.dumps(_manifest(job, base, config, fit, files), indent=2))
    final = storage.adapters / sha256
    if final.exists():
        shutil.rmtree(part)
    else:
        os.replace(part, final)
    assert fit.validation_loss is not None  # every job has validation rows
    return FinishedModel(
        path=str(final),
        sha256=sha256,
        rank=config.lora.rank,
        trained_tokens=fit.trained_tokens,
        training_loss=fit.training_loss,
        validation_loss=fit.validation_loss,
    )


def _write_results(file: Path, history: tuple[StepRecord, ...]) -> None:
    """step, epoch, training_loss, validation_loss; the last only on an epoch's last step."""
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["step", "epoch", "training_loss", "validation_loss"])
        for record in history:
            validation = "" if record.validation_loss is None else record.validation_loss
            writer.writerow([record.step, record.epoch, record.training_loss, validation])


def _manifest(job: Job, base: BaseModel, config: FitConfig, fit: FitResult, files: dict[str, str]) -> dict[str, object]:
    packages = ("torch", "transformers", "peft", "ray")
    return {
        "job_id": job.id,
        "model": job.model,
        "base_model": {"name": base.name, "hf": base.hf, "revision": base.revision, "licence": base.licence},
        "data": {name: job.report[name] for name in ("train_sha256", "validation_sha256", "rows", "validation_rows")},
        "options": job.options.model_dump(),
        "lora": config.lora.model_dump(mode="json"),
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
