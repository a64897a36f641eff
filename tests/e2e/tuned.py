"""Adapters as a job leaves them, without a cluster: trained, fingerprinted and published in this process."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.data.rendering import Rendering
from luthier.platform.models import ModelVersion
from luthier.platform.options import BatchSize, Duration, Unit
from luthier.platform.run_files import RunFiles
from luthier.platform.storage import Storage
from luthier.platform.tasks import TaskType
from luthier.platform.weights.artifacts import MANIFEST, content_of, place
from luthier.platform.weights.lora import LoraSettings
from luthier.train.config import FitConfig, FitResult
from luthier.train.publish import publish
from tests.e2e.live import TOML
from tests.factories import ADMIN, make_job, make_settings
from tests.tiny_adapter import Tensors
from tests.train.local import Local
from tests.train.rows import rows_of

TASK = TaskType.INSTRUCTION_FINETUNE
REPORT = {"rows": 16, "validation_rows": 1, "train_sha256": "a", "validation_sha256": "b", "trained_tokens": 20}


class Tuner:
    """Makes versions on a base model; each has its number."""

    def __init__(self, base: BaseModel, base_dir: Path, folder: Path) -> None:
        self.base, self.base_dir, self._folder = base, base_dir, folder
        self._numbers = count(1)

    def tuned(self, seed: int = 0, base_dir: Path | None = None, rank: int = 4) -> ModelVersion:
        """By the trainer itself, on this base model's weights or on others."""
        from luthier.train.loop import train

        torch.set_num_threads(1)
        number = next(self._numbers)
        folder = self._folder / f"run-{number}"
        folder.mkdir()
        config = FitConfig(
            job_id=f"ft_{number}",
            base_dir=base_dir or self.base_dir,
            train_file=_rows(folder / "train.parquet", seed),
            storage_path=folder,
            rendering=Rendering(task_type=TASK),
            batch=BatchSize(rows=8),
            learning_rate=1e-2,
            duration=Duration(num=10, unit=Unit.BATCHES),
            lora=LoraSettings(rank=rank, alpha=2 * rank),
            seed=seed,
            threads=1,
            dtype="float32",
        )
        history = tuple(train(config, Local(folder).worker))
        fit = FitResult(
            checkpoint_dir=folder / str(history[-1].step),
            history=history,
            trained_tokens=20,
            training_loss=1.0,
            validation_loss=1.0,
            fingerprint=RunFiles(folder / config.job_id).fingerprint,
        )
        made = publish(make_job(report=REPORT), self.base, config, fit, Storage(self._folder))
        return self._version(number, Path(made.path), rank)

    def changed(self, version: ModelVersion, change: Callable[[Path], Any]) -> ModelVersion:
        """A version whose files were others from the first: they are those of its manifest."""
        number = next(self._numbers)
        folder = Path(shutil.copytree(version.path, self._folder / f"changed-{number}"))
        (folder / MANIFEST).unlink()
        change(folder)
        return self._version(number, place(folder, content_of(folder), {}, self._folder / "adapters"), version.rank)

    def damaged(self, version: ModelVersion, change: Callable[[Path], Any]) -> ModelVersion:
        """A version whose files are not those of its manifest."""
        number = next(self._numbers)
        folder = Path(shutil.copytree(version.path, self._folder / "damaged" / str(number)))
        change(folder)
        return self._version(number, folder, version.rank)

    def _version(self, number: int, folder: Path, rank: int) -> ModelVersion:
        return ModelVersion(
            number=number,
            model=f"M{number}",
            version=1,
            job_id=f"ft_{number}",
            base_model=self.base.name,
            path=str(folder),
            sha256=folder.name,
            rank=rank,
            task_type=TASK,
            owner=ADMIN.user,
            created_on=1,
        )


def halved(tensors: Tensors) -> None:
    for name in [name for name in tensors if "mlp" in name]:
        del tensors[name]


def exploded(tensors: Tensors) -> None:
    """Each number is one of float32; with the adapter's scale it is none."""
    for name in tensors:
        if "lora_B" in name:
            tensors[name][:] = 3e38


def emptied(tensors: Tensors) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name][:] = 0


def other_weights(base_dir: Path, folder: Path, **changes: Any) -> Path:
    """Another base model with the same tokenizer."""
    shutil.copytree(base_dir, folder)
    config = AutoConfig.from_pretrained(base_dir)
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def tiny_tuner(tiny_model: Path, folders: pytest.TempPathFactory, engine: str) -> Tuner:
    """On the tiny model as the tests' catalog has it, with another line for its engine."""
    home = folders.mktemp("home")
    settings = make_settings(home, tiny_model)
    (home / "base_models" / "tiny.toml").write_text(f"{TOML.format(path=tiny_model)}{engine}\n")
    return Tuner(load_catalog(settings).get("tiny"), tiny_model, folders.mktemp("tuned"))


def _rows(file: Path, seed: int) -> Path:
    """Of another seed with other answers."""
    rows = [{**row, "completion": row["completion"] * (1 + seed)} for row in rows_of(TASK, 16)]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file
