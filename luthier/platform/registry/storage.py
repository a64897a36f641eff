"""Verbs that bill storage: a record for each account and day."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from luthier.platform.metering import DAY_MS, UsageKind, UsageRecord, storage_usage
from luthier.platform.prices import PriceList
from luthier.platform.registry.artifacts import num_bytes
from luthier.platform.registry.ledger import Ledger
from luthier.platform.store import Store

Folders = dict[str, tuple[int, int]]
"""Of an account, by content hash: bytes, and since when."""


class StorageMeter:
    """Versions that share a folder pay for it once; the day on which a version is dropped is free."""

    def __init__(self, store: Store, ledger: Ledger, prices: PriceList, clock: Callable[[], int]) -> None:
        self._store, self._ledger, self._prices, self._clock = store, ledger, prices, clock
        self._models, self._versions, self._usage = (store.table(name) for name in ("models", "versions", "usage"))
        self._sizes: dict[str, int] = {}
        """By content hash: what has such a name never changes."""

    def bill(self) -> None:
        """What is due, at once."""
        self._ledger.append(self.due())

    def due(self) -> list[UsageRecord]:
        """All whole days that are not in the ledger yet. The first of an account is yesterday, not its past."""
        today = self._clock() // DAY_MS * DAY_MS
        billed = self._billed()
        return [
            record
            for account, folders in self._folders().items()
            for record in self._days(account, folders, billed.get(account, today - 2 * DAY_MS) + DAY_MS, today)
        ]

    def _days(self, account: str, folders: Folders, first: int, today: int) -> list[UsageRecord]:
        oldest = min(since for _, since in folders.values())
        records = []
        for day in range(max(first, oldest // DAY_MS * DAY_MS), today, DAY_MS):
            byte_ms = sum(size * max(0, day + DAY_MS - max(day, since)) for size, since in folders.values())
            if byte_ms:
                records.append(storage_usage(account, self._prices, byte_ms, day))
        return records

    def _billed(self) -> dict[str, int]:
        """The last day of each account in the ledger."""
        columns = self._usage.c
        query = sa.select(columns.account, sa.func.max(columns.time).label("last"))
        rows = self._store.rows(query.where(columns.kind == UsageKind.STORAGE.value).group_by(columns.account))
        return {row["account"]: row["last"] // DAY_MS * DAY_MS for row in rows}

    def _folders(self) -> dict[str, Folders]:
        models, versions = self._models, self._versions
        query = sa.select(models.c.account, versions.c.sha256, versions.c.path, versions.c.created_on)
        found: dict[str, Folders] = defaultdict(dict)
        for row in self._store.rows(query.join(versions, versions.c.model_id == models.c.id)):
            _, since = found[row["account"]].get(row["sha256"], (0, row["created_on"]))
            found[row["account"]][row["sha256"]] = self._size(row), min(since, row["created_on"])
        return found

    def _size(self, row: dict[str, str]) -> int:
        if row["sha256"] not in self._sizes and Path(row["path"]).is_dir():
            self._sizes[row["sha256"]] = num_bytes(Path(row["path"]))
        return self._sizes.get(row["sha256"], 0)
