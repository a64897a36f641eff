"""Verbs that bill storage: a record for each account and day."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from luthier.platform.metering import DAY_MS, UsageKind, UsageRecord, storage_usage
from luthier.platform.prices import PriceList
from luthier.platform.registry.storage_rows import StorageRows, is_away
from luthier.platform.storage import num_bytes
from luthier.platform.store import Store

Where = list[sa.ColumnElement[bool]]


class Span(NamedTuple):
    since: int
    until: int | None
    num_bytes: int


class StorageMeter:
    """Whatever was dropped meanwhile: what an account kept on a day is what its spans say.

    What it kept all day is added up by the store: an account may have a million versions, and few that come and go.
    """

    def __init__(self, store: Store, prices: PriceList, clock: Callable[[], int]) -> None:
        self._store, self._prices, self._clock = store, prices, clock
        self._spans = StorageRows(store).spans
        self._usage, self._accounts = store.table("usage"), store.table("accounts")

    def due(self) -> list[UsageRecord]:
        """All whole days that are not in the ledger yet; none of an account while storage cannot tell a size."""
        today = self._clock() // DAY_MS * DAY_MS
        return [
            record
            for account, billed in self._billed_before(today).items()
            for record in self._days(account, billed, today)
        ]

    def _billed_before(self, today: int) -> dict[str, int]:
        """The accounts that keep, or kept since, what no bill has yet; and the end of their last bill."""
        accounts, usage, spans = self._accounts.c, self._usage.c, self._spans.c
        its = usage.account == accounts.name, usage.kind == UsageKind.STORAGE.value
        last = sa.select(sa.func.max(usage.time) + 1).where(*its).scalar_subquery()
        bills = sa.select(accounts.name, sa.func.coalesce(last, 0).label("billed")).subquery()
        began = sa.select(spans.id).where(spans.account == bills.c.name, spans.since < today)
        is_left = [began.where(each).exists() for each in (spans.until.is_(None), spans.until > bills.c.billed)]
        query = sa.select(bills).where(bills.c.billed < today, sa.or_(*is_left))
        return {row["name"]: row["billed"] for row in self._store.rows(query)}

    def _days(self, account: str, billed: int, today: int) -> Iterator[UsageRecord]:
        spans, is_left = self._spans.c, self._left(account, billed, today)
        unknown = self._store.rows(sa.select(self._spans).where(*is_left, spans.num_bytes.is_(None)))
        if any(is_away(span["path"]) for span in unknown):
            return
        measured = [Span(row["since"], row["until"], num_bytes(Path(row["path"]))) for row in unknown]
        (first,) = self._store.rows(sa.select(sa.func.min(spans.since).label("since")).where(*is_left))
        for day in range(max(billed, first["since"] // DAY_MS * DAY_MS), today, DAY_MS):
            kept = sum(span.num_bytes * _kept_ms(span, day) for span in [*measured, *self._partly(account, day)])
            if byte_ms := kept + self._all_day(account, day) * DAY_MS:
                yield storage_usage(account, self._prices, byte_ms, day)

    def _all_day(self, account: str, day: int) -> int:
        """Bytes."""
        spans, midnight = self._spans.c, day + DAY_MS
        query = sa.select(sa.func.coalesce(sa.func.sum(spans.num_bytes), 0).label("bytes"))
        (row,) = self._store.rows(query.where(*self._left(account, midnight - 1, day + 1)))
        return int(row["bytes"])

    def _partly(self, account: str, day: int) -> list[Span]:
        """What was begun or ended on that day."""
        spans, midnight = self._spans.c, day + DAY_MS
        query = sa.select(spans.since, spans.until, spans.num_bytes).where(
            *self._left(account, day, midnight),
            spans.num_bytes.is_not(None),
            sa.or_(spans.since > day, spans.until < midnight),
        )
        return [Span(**row) for row in self._store.rows(query)]

    def _left(self, account: Any, after: Any, before: int) -> Where:
        """Spans of an account that reach beyond one time, and began before another."""
        spans = self._spans.c
        return [spans.account == account, sa.or_(spans.until.is_(None), spans.until > after), spans.since < before]


def _kept_ms(span: Span, day: int) -> int:
    """How much of a day it was kept."""
    midnight = day + DAY_MS
    return max(0, min(span.until or midnight, midnight) - max(span.since, day))
