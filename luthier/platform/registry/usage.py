"""Verbs that read the ledger for views and statements: sums that the store makes, and pages of records."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.ledger import COUNTS, GroupBy, group_key, seen_usage
from luthier.platform.store import Store

SUMS = (*COUNTS, "stored_bytes")
MAX_PAGE = 10_000
"""Records of one call: a page takes the registry about a tenth of a second."""


class Selection(Frozen):
    """Which records: of a kind, by some functions or by all but some, at times in a half-open interval."""

    kind: UsageKind | None = None
    functions: tuple[str, ...] = ()
    """Empty: by all."""
    but: tuple[str, ...] = ()
    since: int = 0
    until: int = 2**62


class UsageReader:
    """Of the caller's own account, always, and there what he may see."""

    def __init__(self, store: Store) -> None:
        self._store, self._usage, self._guard = store, store.table("usage"), Guard(store)

    def sums(self, caller: Caller, group_by: Sequence[GroupBy], of: Selection) -> list[dict[str, Any]]:
        """Counts and micro-credits by the columns named; `hour` and `day` are the period's start."""
        keys = [group_key(self._usage, name) for name in group_by]
        sums = [sa.func.sum(self._usage.c[name]).label(name) for name in SUMS]
        query = sa.select(*keys, sa.func.count().label("records"), *sums).where(*self._chosen(caller, of))
        rows = self._store.rows(query.group_by(*group_by).order_by(*group_by))
        return [{**row, **{name: int(row[name]) for name in SUMS}} for row in rows if row["records"]]

    def page(
        self, caller: Caller, of: Selection, after: int = 0, limit: int = MAX_PAGE
    ) -> list[tuple[int, UsageRecord]]:
        """Records with their numbers, in the order in which they came; those behind a number."""
        columns = self._usage.c
        query = sa.select(self._usage).where(*self._chosen(caller, of), columns.id > after)
        rows = self._store.rows(query.order_by(columns.id).limit(min(limit, MAX_PAGE)))
        return [(row.pop("id"), UsageRecord(**row)) for row in rows]

    def _chosen(self, caller: Caller, of: Selection) -> list[sa.ColumnElement[bool]]:
        columns = self._usage.c
        seen = seen_usage(self._store, self._guard, caller)
        chosen = [seen, columns.time >= of.since, columns.time < of.until]
        if of.kind:
            chosen.append(columns.kind == of.kind.value)
        if of.functions:
            chosen.append(columns.function.in_(of.functions))
        if of.but:
            chosen.append(columns.function.not_in(of.but))
        return chosen


def records_of(usage: UsageReader, caller: Caller, of: Selection) -> Iterator[UsageRecord]:
    """All of them, page by page: between two pages the registry answers others."""
    after: int | None = 0
    while after is not None:
        page = usage.page(caller, of, after)
        yield from (record for _, record in page)
        after = page[-1][0] if len(page) == MAX_PAGE else None
