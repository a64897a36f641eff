"""Rows of a job: the split, and the snapshot."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.data import datasets
from luthier.platform.data.datasets import Dataset, split
from luthier.platform.storage import Storage, file_sha256


def table(first: int, end: int) -> pa.Table:
    return pa.table({name: [f"{name} {number}" for number in range(first, end)] for name in ("prompt", "completion")})


@given(num_rows=st.integers(2, 300), seed=st.integers(0, 2**31 - 1))
def test_a_split_is_seeded_disjoint_and_whole(num_rows: int, seed: int) -> None:
    kept, held = split(num_rows, seed)
    assert sorted(kept + held) == list(range(num_rows))
    assert kept == sorted(kept)
    assert held == sorted(held)
    assert len(held) == max(1, num_rows // datasets.VALIDATION_SHARE)
    assert split(num_rows, seed) == (kept, held)


def test_other_seeds_hold_out_other_rows() -> None:
    assert len({tuple(split(200, seed)[1]) for seed in range(5)}) > 1


def test_the_split_is_bounded() -> None:
    assert len(split(20_000, 0)[1]) == datasets.MAX_SPLIT_ROWS


def test_one_row_serves_as_both() -> None:
    assert split(1, 0) == ([0], [0])


def test_a_snapshot_is_the_data_with_its_hashes(tmp_path: Path) -> None:
    data = Dataset(training=table(0, 24), validation=table(24, 25))
    hashes = datasets.freeze(data, Storage(tmp_path), "ft_1")
    folder = tmp_path / "jobs" / "ft_1"
    assert sorted(file.name for file in folder.iterdir()) == ["train.parquet", "validation.parquet"]
    assert pq.read_table(folder / "train.parquet") == data.training
    assert pq.read_table(folder / "validation.parquet") == data.validation
    expected = {f"{name}_sha256": file_sha256(folder / f"{name}.parquet") for name in ("train", "validation")}
    assert hashes == expected
    assert datasets.freeze(data, Storage(tmp_path), "ft_2") == expected
