"""Verbs that read the ledger for views and statements: sums that the store makes, and pages of records."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.privileges import Action, Maker
from luthier.platform.registry.guard import MAX_PARTS, Guard
from luthier.platform.registry.paging import nothing_behind
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Store

HOUR_MS = 3_600_000
_PERIOD_MS = {"hour": HOUR_MS, "day": 24 * HOUR_MS}
GroupBy = Literal["model", "version", "base_model", "function", "user", "role", "key", "query", "day", "hour"]
Column = Literal["kind"] | GroupBy
SUMS = ("prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens", "amount_ucr", "stored_bytes")
FOREVER_MS = 2**62
MAX_PAGE = 10_000
"""Records of one call: a page takes the registry about a tenth of a second."""
MAX_PART = 20_000
"""Records that one call adds up, where the sums may be as many."""


class Selection(Frozen):
    """Which records: of a kind, by some functions or by all but some, at times in a half-open interval."""

    kind: UsageKind | None = None
    functions: tuple[str, ...] = ()
    """Empty: by all."""
    but: tuple[str, ...] = ()
    since: int = 0
    until: int = FOREVER_MS

    @property
    def has_whole_hours(self) -> bool:
        """And all records in them, so that the sums are kept."""
        is_whole = self.since % HOUR_MS == 0 and (self.until % HOUR_MS == 0 or self.until >= FOREVER_MS)
        return is_whole and not self.functions and not self.but


class UsageReader:
    """Of the caller's own account, always, and there what he may see."""

    def __init__(self, store: Store) -> None:
        self._store, self._guard = store, Guard(store)
        self._usage, self._hours = store.table("usage"), store.table("usage_hours")

    def sums(
        self, caller: Caller, group_by: Sequence[Column], of: Selection, limit: int | None = None, behind: int = 0
    ) -> list[dict[str, Any]]:
        """Counts and micro-credits by the columns named; `hour` and `day` are the period's start.

        In their order; at most `limit`, without those that come before.
        """
        hours = None
        if of.has_whole_hours and {"kind", "hour", "day"}.issuperset(group_by):
            hours = self._kept(caller, of)
        if hours is None:
            return self._sums(self._usage, self._chosen(caller, of), group_by, limit, behind)
        return self._sums(hours, [], group_by, limit, behind)

    def _kept(self, caller: Caller, of: Selection) -> sa.FromClause | None:
        """Whole hours as they are kept; of a role or user that began within one, its records of that hour."""
        with self._store.reading() as tx:
            his = self._guard.makers_since(tx, caller, Action.READ_USAGE, ObjectKind.USAGE)
        columns, records = self._hours.c, self._usage.c
        kinds = [kind.value for kind in UsageKind if of.kind in (None, kind)]  # by name: an index begins so
        of_hours, of_records = (
            (its.account == caller.account, its.kind.in_(kinds), its.time >= of.since, its.time < of.until)
            for its in (columns, records)
        )
        names = ("kind", "time", *SUMS)
        hours = sa.select(columns.records, *(columns[name] for name in names)).where(*of_hours)
        if his is None:
            return hours.subquery()
        if len(his) > MAX_PARTS:
            return None
        parts = [hours.where(sa.false())]
        for maker, began in his:
            whole = -(-began // HOUR_MS) * HOUR_MS
            parts.append(hours.where(_is_by(columns, maker), columns.time >= whole))
            part = (_is_by(records, maker), records.time >= began, records.time < whole)
            parts.append(sa.select(sa.literal(1), *(records[name] for name in names)).where(*of_records, *part))
        return sa.union_all(*parts).subquery()

    def _sums(
        self,
        usage: sa.FromClause,
        chosen: list[sa.ColumnElement[bool]],
        group_by: Sequence[Column],
        limit: int | None = None,
        behind: int = 0,
    ) -> list[dict[str, Any]]:
        keys = [_group_key(usage, name) for name in group_by]
        sums = [sa.func.sum(usage.c[name]).label(name) for name in SUMS]
        records = sa.func.count() if usage is self._usage else sa.func.sum(usage.c.records)
        query = sa.select(*keys, records.label("records"), *sums).where(*chosen).having(records > 0)
        rows = self._store.rows(query.group_by(*group_by).order_by(*group_by).limit(limit).offset(behind))
        return [{**row, **{name: int(row[name]) for name in ("records", *SUMS)}} for row in rows]

    def part(
        self, caller: Caller, group_by: Sequence[Column], of: Selection, after: int = 0
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Sums of so many records behind a number, and the number behind which the next part begins, if there is one.

        What is grouped may be in two parts.
        """
        columns, chosen = self._usage.c, self._chosen(caller, of)
        some = sa.select(columns.id).where(*chosen, columns.id > after).order_by(columns.id).limit(MAX_PART).subquery()
        with self._store.reading() as tx:
            num, last = tx.execute(sa.select(sa.func.count(), sa.func.max(some.c.id)).select_from(some)).one()
        if not num:
            return [], None
        sums = self._sums(self._usage, [*chosen, columns.id > after, columns.id <= last], group_by)
        return sums, last if num == MAX_PART else None

    def page(
        self, caller: Caller, of: Selection, after: int = 0, limit: int = MAX_PAGE
    ) -> list[tuple[int, UsageRecord]]:
        """Records with their numbers, in the order in which they came; those behind a number."""
        columns = self._usage.c
        query = sa.select(self._usage).where(*self._chosen(caller, of), columns.id > after)
        rows = self._store.rows(query.order_by(columns.id).limit(min(limit, MAX_PAGE)))
        return [(row.pop("id"), UsageRecord(**row)) for row in rows]

    def columns(
        self, caller: Caller, names: Sequence[str], of: Selection, after: int = 0
    ) -> tuple[pa.RecordBatch, int | None]:
        """Columns of the records of a page, and the number behind which the next one begins, if there is one. A tenth
        of the work of whole records."""
        number, kept = self._usage.c.id, [_group_key(self._usage, name) for name in names]
        query = sa.select(number, *kept).where(*self._chosen(caller, of), number > after)
        with self._store.reading() as tx:
            rows = tx.execute(query.order_by(number).limit(MAX_PAGE)).all()
        numbers, *values = zip(*rows, strict=True) if rows else [()] * (1 + len(kept))
        types = [pa.int64() if column.type.python_type is int else pa.string() for column in kept]
        batch = pa.record_batch([pa.array(*each) for each in zip(values, types, strict=True)], list(names))
        return batch, numbers[-1] if len(rows) == MAX_PAGE else None

    def page_behind(
        self, caller: Caller, of: Selection, last: str | None = None, limit: int = MAX_PAGE
    ) -> list[UsageRecord]:
        """The same, behind the record of an id: the numbers are those of all accounts' records."""
        columns, after = self._usage.c, 0
        if last is not None:
            is_it = (*self._chosen(caller, of), columns.source_id == last)
            found = self._store.rows(sa.select(columns.id).where(*is_it))
            if not found:
                raise nothing_behind(last)
            after = found[0]["id"]
        return [record for _, record in self.page(caller, of, after, limit)]

    def _chosen(self, caller: Caller, of: Selection) -> list[sa.ColumnElement[bool]]:
        """Of what the caller's roles used; of the whole account for who may see that."""
        columns = self._usage.c
        with self._store.reading() as tx:
            seen = self._guard.made(tx, caller, Action.READ_USAGE, ObjectKind.USAGE, self._usage)
        chosen = [seen, columns.time >= of.since, columns.time < of.until]
        if of.kind:
            chosen.append(columns.kind == of.kind.value)
        if of.functions:
            chosen.append(columns.function.in_(of.functions))
        if of.but:
            chosen.append(columns.function.not_in(of.but))
        return chosen


def _is_by(its: sa.ColumnCollection[str, sa.Column[Any]], maker: Maker) -> sa.ColumnElement[bool]:
    """Hours have a user where his role is everybody's."""
    return sa.and_(its.role == maker.role, *([its.user == maker.user] if maker.user else []))


def sums_of(usage: UsageReader, caller: Caller, group_by: Sequence[Column], of: Selection) -> Iterator[dict[str, Any]]:
    """By parts: the same group may come more than once."""
    after: int | None = 0
    while after is not None:
        sums, after = usage.part(caller, group_by, of, after)
        yield from sums


def records_of(usage: UsageReader, caller: Caller, of: Selection) -> Iterator[UsageRecord]:
    """All of them, page by page: between two pages the registry answers others."""
    after: int | None = 0
    while after is not None:
        page = usage.page(caller, of, after)
        yield from (record for _, record in page)
        after = page[-1][0] if len(page) == MAX_PAGE else None


def columns_of(usage: UsageReader, caller: Caller, names: Sequence[str], of: Selection) -> Iterator[pa.RecordBatch]:
    """Of all of them, page by page."""
    after: int | None = 0
    while after is not None:
        batch, after = usage.columns(caller, names, of, after)
        yield batch


def _group_key(usage: sa.FromClause, name: str) -> sa.ColumnElement[Any]:
    """A column of the ledger, or what is made of one: the start of a period, or the statement that a row belongs to."""
    if period := _PERIOD_MS.get(name):
        return (usage.c.time - usage.c.time % period).label(name)
    if name == "query":
        return _query_id(usage)
    return usage.c[name]


def _query_id(usage: sa.FromClause) -> sa.ColumnElement[Any]:
    """The id of the request that the record came with; rows of one SQL statement are `<id>-0`, `<id>-1`, ..."""
    numbered = sa.func.rtrim(sa.func.rtrim(usage.c.source_id, "0123456789"), "-")
    return sa.case((usage.c.source_id.like("req\\_%-%", escape="\\"), numbered), else_=usage.c.source_id).label("query")
