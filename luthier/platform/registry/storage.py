"""Verbs that bill storage: a record for each account and day."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luthier.platform.metering import DAY_MS, UsageKind, UsageRecord, storage_usage
from luthier.platform.prices import PriceList
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.storage_rows import StorageRows, is_away
from luthier.platform.storage import num_bytes
from luthier.platform.store import Store

Row = dict[str, Any]


class StorageMeter:
    """Whatever was dropped meanwhile: what an account kept on a day is what its spans say."""

    def __init__(self, store: Store, ledger: Ledger, prices: PriceList, clock: Callable[[], int]) -> None:
        self._store, self._ledger, self._prices, self._clock = store, ledger, prices, clock
        self._spans, self._usage = StorageRows(store).spans, store.table("usage")
        self._sizes: dict[str, int] = {}
        """By content hash: what has such a name never changes."""

    def bill(self) -> None:
        """What is due, at once."""
        self._ledger.append(self.due())

    def due(self) -> list[UsageRecord]:
        """All whole days that are not in the ledger yet; none of an account while storage cannot tell a size."""
        today = self._clock() // DAY_MS * DAY_MS
        return [
            record
            for account, spans in self._unbilled(today).items()
            if not any(map(self._is_away, spans))
            for record in self._days(account, spans, today)
        ]

    def _days(self, account: str, spans: list[Row], today: int) -> list[UsageRecord]:
        first = max(spans[0]["billed"], min(span["since"] for span in spans) // DAY_MS * DAY_MS)
        records = []
        for day in range(first, today, DAY_MS):
            if byte_ms := sum(self._size(span) * _kept_ms(span, day) for span in spans):
                records.append(storage_usage(account, self._prices, byte_ms, day))
        return records

    def _unbilled(self, today: int) -> dict[str, list[Row]]:
        """Of each account the spans that reach beyond its last bill, and the end of that."""
        spans, usage = self._spans.c, self._usage.c
        last = sa.select(usage.account, (sa.func.max(usage.time) + 1).label("end"))
        bills = last.where(usage.kind == UsageKind.STORAGE.value).group_by(usage.account).subquery()
        billed = sa.func.coalesce(bills.c.end, 0).label("billed")
        query = sa.select(self._spans, billed).select_from(
            sa.outerjoin(self._spans, bills, bills.c.account == spans.account)
        )
        found: dict[str, list[Row]] = defaultdict(list)
        is_left = sa.or_(spans.until.is_(None), spans.until > billed)
        for row in self._store.rows(query.where(is_left, spans.since < today)):
            found[row["account"]].append(row)
        return found

    def _is_away(self, span: Row) -> bool:
        return span["num_bytes"] is None and span["sha256"] not in self._sizes and is_away(span["path"])

    def _size(self, span: Row) -> int:
        known = span["num_bytes"]
        if known is not None and (span["until"] is not None or is_away(span["path"])):
            return int(known)
        if span["sha256"] not in self._sizes and Path(span["path"]).is_dir():
            self._sizes[span["sha256"]] = num_bytes(Path(span["path"]))
        return self._sizes.get(span["sha256"], 0)


def _kept_ms(span: dict[str, int], day: int) -> int:
    """How much of a day it was kept."""
    midnight = day + DAY_MS
    return max(0, min(span["until"] or midnight, midnight) - max(span["since"], day))
