"""Verbs that forget jobs which ended long ago. Their models, their usage and what a model was made from stay."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

from luthier.platform.jobs import ACTIVE
from luthier.platform.metering import DAY_MS
from luthier.platform.registry.artifacts import Garbage
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage, num_bytes
from luthier.platform.store import Store

MAX_FORGOTTEN = 200
"""Rows of one call: the registry does nothing else meanwhile."""
MAX_NAMES = 500
"""In one query."""


class Retention:
    def __init__(self, store: Store, settings: Settings, clock: Callable[[], int]) -> None:
        self._store, self._clock, self._storage = store, clock, Storage(settings.storage)
        self._kept_ms = settings.job_retention_days * DAY_MS
        self._grace_ms = settings.collect_after_minutes * 60_000
        self._jobs, self._versions = store.table("jobs"), store.table("versions")

    def orphans(self) -> list[Garbage]:
        """The folders of jobs that are not there, for whoever removes them."""
        runs = self._orphans(self._storage.runs, self._starts())
        data = self._orphans(self._storage.jobs, self._makers())
        return [Garbage(path=path, num_bytes=num_bytes(path)) for path in (*runs, *data)]

    def forget(self) -> int:
        """Those that ended longer ago than they are kept, the oldest first; how many."""
        if not self._kept_ms:
            return 0
        columns = self._jobs.c
        ended = sa.and_(columns.status.not_in(ACTIVE), columns.finished_on < self._clock() - self._kept_ms)
        oldest = sa.select(columns.id).where(ended).order_by(columns.finished_on).limit(MAX_FORGOTTEN)
        with self._store.transaction() as tx:
            return tx.execute(sa.delete(self._jobs).where(columns.id.in_(oldest))).rowcount

    def _orphans(self, folder: Path, needed: Callable[[list[str]], set[str]]) -> Iterator[Path]:
        """Folders of jobs that are neither there nor needed. A job's data is written before the job is there."""
        old = (path for path in sorted(folder.glob("ft_*")) if self._is_old(path))
        for some in _batched(old, MAX_NAMES):
            names = [path.name for path in some]
            there = self._ids(self._jobs.c.id, names) | needed(names)
            yield from (path for path in some if path.name not in there)

    def _is_old(self, path: Path) -> bool:
        return path.is_dir() and self._clock() - path.stat().st_mtime_ns // 1_000_000 > self._grace_ms

    def _makers(self) -> Callable[[list[str]], set[str]]:
        """Jobs that made a version: it can be trained again from their data."""
        return lambda names: self._ids(self._versions.c.job_id, names)

    def _starts(self) -> Callable[[list[str]], set[str]]:
        """Jobs with whose checkpoints a job under way began."""
        columns = self._jobs.c
        query = sa.select(columns.start_path).where(columns.status.in_(ACTIVE), columns.start_path.is_not(None))
        started = {part for row in self._store.rows(query) for part in Path(row["start_path"]).parts}
        return started.intersection

    def _ids(self, column: sa.ColumnElement[str], names: list[str]) -> set[str]:
        return {row["id"] for row in self._store.rows(sa.select(column.label("id")).where(column.in_(names)))}


def _batched(paths: Iterable[Path], size: int) -> Iterator[tuple[Path, ...]]:
    left = iter(paths)
    while some := tuple(islice(left, size)):
        yield some
