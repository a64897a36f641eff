"""Training files and settings on the tiny model."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.train.config import FitConfig, LoraSettings

WORDS = ("red", "blue", "green", "gold")


def write_rows(path: Path, num_rows: int) -> Path:
    prompts = [f"what is the colour of thing {i} {'really ' * (i % 5)}?" for i in range(num_rows)]
    completions = [WORDS[i % len(WORDS)] for i in range(num_rows)]
    pq.write_table(pa.table({"prompt": prompts, "completion": completions}), path)
    return path


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> FitConfig:
    """Three epochs of five steps, the last one short; a checkpoint every second step."""
    return FitConfig(
        job_id="ft_1",
        base_dir=tiny_model,
        train_file=write_rows(tmp_path / "train.parquet", 19),
        validation_file=write_rows(tmp_path / "validation.parquet", 5),
        storage_path=tmp_path / "runs",
        batch_size=4,
        learning_rate=5e-3,
        max_epochs=3,
        lora=LoraSettings(rank=4, alpha=8),
        checkpoint_steps=2,
        threads=1,
        dtype="float32",
    )
