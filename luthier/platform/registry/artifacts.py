"""Verbs on published folders: which of them nobody needs any more."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa

from luthier.platform.frozen import Frozen
from luthier.platform.jobs import ACTIVE
from luthier.platform.registry.storage_rows import StorageRows
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage, num_bytes
from luthier.platform.store import Store
from luthier.platform.weights.artifacts import manifest_if_readable

COLLECTED = ".collected"
"""Ends the name of a folder that is about to be removed."""


class Garbage(Frozen):
    """A folder that no version names."""

    path: Path
    num_bytes: int


class Artifacts:
    def __init__(self, store: Store, settings: Settings, clock: Callable[[], int]) -> None:
        self._store, self._clock = store, clock
        self._folder = Storage(settings.storage).adapters
        self._grace = settings.collect_after_minutes * 60_000
        self._versions, self._dropped = store.table("versions"), store.table("dropped")
        self._jobs, self._spans = store.table("jobs"), StorageRows(store)

    def collect(self, dry_run: bool = False) -> list[Garbage]:
        """Takes the names of folders that nobody needs, so that nobody can come to need them; who asks removes them.

        A version is made by one of these verbs too, one after the other, and its folder was touched just before: a
        folder is never taken from under it.
        """
        found = [Garbage(path=path, num_bytes=num_bytes(path)) for path in self._unneeded()]
        return found if dry_run else [self._put_away(garbage) for garbage in found]

    def _unneeded(self) -> Iterator[Path]:
        """Neither named by a version nor by a job that is under way, for longer than the time of grace."""
        named, active = self._named(), sa.select(self._jobs.c.id).where(self._jobs.c.status.in_(ACTIVE))
        jobs = {row["id"] for row in self._store.rows(active)}
        dropped = {row["sha256"]: row["time"] for row in self._store.rows(sa.select(self._dropped))}
        for path in sorted(self._folder.glob("*")):
            if path.suffix == COLLECTED:
                yield path
            elif path.is_dir() and path.name not in named:
                left = max(path.stat().st_mtime_ns // 1_000_000, dropped.get(path.name, 0))
                if self._clock() - left > self._grace and not jobs & {path.stem, _maker(path)}:
                    yield path

    def _put_away(self, garbage: Garbage) -> Garbage:
        if garbage.path.suffix == COLLECTED:
            return garbage
        aside = garbage.path.with_name(garbage.path.name + COLLECTED)
        os.replace(garbage.path, aside)
        with self._store.transaction() as tx:
            tx.execute(sa.delete(self._dropped).where(self._dropped.c.sha256 == garbage.path.name))
            self._spans.measure(tx, garbage.path.name, garbage.num_bytes)
        return Garbage(path=aside, num_bytes=garbage.num_bytes)

    def _named(self) -> set[str]:
        """Folders of versions, and those that jobs under way began with."""
        paths = [row["path"] for row in self._store.rows(sa.select(self._versions.c.path))]
        columns = self._jobs.c
        starts = sa.select(columns.start_path).where(columns.status.in_(ACTIVE), columns.start_path.is_not(None))
        return {Path(path).name for path in [*paths, *(row["start_path"] for row in self._store.rows(starts))]}


def _maker(folder: Path) -> str:
    """The job that published the folder, and may not have told so yet; empty if none did."""
    return str(manifest_if_readable(folder).get("job_id", ""))
