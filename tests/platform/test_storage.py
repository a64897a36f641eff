"""Storage: a file appears whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.platform.storage import Storage, file_sha256, num_bytes, write_parquet

ROWS = pa.table({"prompt": ["a", "b"]})


def test_batches_become_one_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.parquet"
    written = write_parquet(file, ROWS.schema, ROWS.to_batches(max_chunksize=1))
    assert (written.path, written.num_rows) == (file, 2)
    assert written.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() == file_sha256(file)
    assert pq.read_table(file) == ROWS
    assert list(file.parent.iterdir()) == [file]


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from ROWS.to_batches()
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_parquet(tmp_path / "a.parquet", ROWS.schema, broken())
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, ROWS.schema, ROWS.to_batches())
    with pytest.raises(ValueError, match="schema does not match"):
        write_parquet(file, ROWS.schema, [pa.record_batch({"other": [1]})])
    assert pq.read_table(file) == ROWS


def test_table_files_have_fresh_names(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert storage.table_file() != storage.table_file()
    folders = {storage.table_file().parent, storage.job_dir("ft_1").parent, storage.runs, storage.adapters}
    assert len(folders) == 4
    assert all(folder.parent == tmp_path for folder in folders)


def test_what_uploads_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.sweep_uploads()
    storage.uploads.mkdir()
    for name in ("old", "new"):
        (storage.uploads / f"{name}.csv").touch()
        (storage.uploads / name / "inside").mkdir(parents=True)
    for name in ("old", "old.csv"):
        os.utime(storage.uploads / name, (0, 0))
    storage.sweep_uploads()
    assert sorted(path.name for path in storage.uploads.iterdir()) == ["new", "new.csv"]


def test_a_file_that_vanishes_is_left_out_of_the_sum_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = os.walk

    def slow_walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for root, folders, names in walk(folder):
            (Path(root) / "gone").unlink(missing_ok=True)
            yield root, folders, names

    for name in ("a", "gone", "inside/b", "inside/gone"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"four")
    monkeypatch.setattr(os, "walk", slow_walk)
    assert num_bytes(tmp_path) == 8
    assert num_bytes(tmp_path / "never") == 0
