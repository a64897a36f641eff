"""Training files and settings on the tiny model, and a store of MLflow."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from luthier.platform.data.rendering import Rendering
from luthier.platform.options import BatchSize, Duration, Unit
from luthier.platform.tasks import TaskType
from luthier.platform.weights.lora import LoraSettings
from luthier.train.config import FitConfig
from tests.train.rows import rows_of

disable_progress_bar()


def write_rows(path: Path, num_rows: int, task: TaskType = TaskType.INSTRUCTION_FINETUNE) -> Path:
    pq.write_table(pa.Table.from_pylist(rows_of(task, num_rows)), path)
    return path


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A tiny model gains nothing from more, and loses much where others compute."""
    torch.set_num_threads(1)


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> FitConfig:
    """Three epochs of five steps, the last one short; a checkpoint every second step."""
    return FitConfig(
        job_id="ft_1",
        base_dir=tiny_model,
        train_file=write_rows(tmp_path / "train.parquet", 19),
        validation_file=write_rows(tmp_path / "validation.parquet", 5),
        storage_path=tmp_path / "runs",
        batch=BatchSize(rows=4),
        learning_rate=5e-3,
        duration=Duration(num=3, unit=Unit.EPOCHS),
        lora=LoraSettings(rank=4, alpha=8),
        checkpoint_steps=2,
        threads=1,
        dtype="float32",
    )


def for_task(config: FitConfig, task: TaskType, **rendering: object) -> FitConfig:
    """The same run on rows of another task."""
    folder = config.train_file.parent
    return config.model_copy(
        update={
            "train_file": write_rows(folder / f"train-{task}.parquet", 19, task),
            "validation_file": write_rows(folder / f"validation-{task}.parquet", 5, task),
            "rendering": Rendering(task_type=task, **rendering),
        }
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to make one."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a fresh MLflow store."""
    monkeypatch.chdir(tmp_path)  # artifacts of a database store lie in the current folder
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
