"""Artifact storage: where tables, frozen data, runs and adapters lie. A file appears there whole or not at all."""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.platform.frozen import Frozen

STALE_SECONDS = 86_400.0
"""No upload takes so long."""


class WrittenFile(Frozen):
    path: Path
    num_rows: int
    sha256: str


class Storage:
    """Folders under one root that every node of the cluster can reach."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def table_file(self) -> Path:
        """A fresh name: a table's file is never written over."""
        return self.root / "tables" / f"{uuid.uuid4().hex}.parquet"

    def job_dir(self, job_id: str) -> Path:
        """The frozen data of a job: train.parquet, validation.parquet."""
        return self.jobs / job_id

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def file(self, file_id: str) -> Path:
        """A file that a client uploaded, or that a batch made."""
        return self.root / "files" / file_id

    @property
    def batches(self) -> Path:
        """The results of batches while they are worked on, one folder each."""
        return self.root / "batches"

    @property
    def runs(self) -> Path:
        """Ray Train's checkpoints, one folder a job."""
        return self.root / "runs"

    @property
    def uploads(self) -> Path:
        """What is on its way in."""
        return self.root / "uploads"

    def scratch(self) -> Path:
        """A folder, there, for what lasts as long as a statement; swept of what a process leaves that is killed."""
        self.uploads.mkdir(parents=True, exist_ok=True)
        return self.uploads

    def sweep_uploads(self) -> None:
        """Removes what uploads left behind that were cut off long ago."""
        for path in self.uploads.glob("*"):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    @property
    def adapters(self) -> Path:
        """Published adapters, one folder each, named by content."""
        return self.root / "adapters"


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> WrittenFile:
    """Streams batches into a Parquet file that appears under its name only when whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    num_rows = 0
    try:
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
                num_rows += batch.num_rows
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return WrittenFile(path=path, num_rows=num_rows, sha256=file_sha256(path))


SHA256_BYTES = 32


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def num_bytes(folder: Path) -> int:
    """Of all files below; those that vanish while it counts are left out."""
    num = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                num += os.stat(os.path.join(root, name)).st_size
    return num


def sync(*paths: Path) -> None:
    """Files and folders onto the disk itself: what is renamed afterwards is whole even when the power fails."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
