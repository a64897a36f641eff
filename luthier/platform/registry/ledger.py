"""Verbs on the ledger: append usage records, once each, and add them up."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa

from luthier.errors import AnsweredTwice, Conflict, Unavailable
from luthier.platform.access import Caller
from luthier.platform.jobs import now_ms
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.limits import Limits
from luthier.platform.registry.spending import Spending
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Store

GroupBy = Literal["model", "version", "base_model", "function", "user", "role", "key", "query", "day", "hour"]
HOUR_MS = 3_600_000
_PERIOD_MS = {"hour": HOUR_MS, "day": 24 * HOUR_MS}
ASKED = ("kind", "source_id", "account", "user", "role", "key", "function")
"""What tells requests apart, whatever is answered."""
COUNTS = ("prompt_tokens", "completion_tokens", "trained_tokens", "evaluated_tokens", "amount_ucr")


class Ledger:
    def __init__(self, store: Store, clock: Callable[[], int] = now_ms) -> None:
        self._store, self.limits = store, Limits(store, clock)
        self._spending = Spending(self.limits)
        self._usage, self._guard = store.table("usage"), Guard(store)

    def append(self, records: list[UsageRecord]) -> int:
        """Adds what is new and returns how many that were. A known (kind, source id) with other content is refused;
        AnsweredTwice says that it is of the same request.

        What is new is spent, in the same transaction, of what limits its account.
        """
        with self._store.transaction() as tx:
            return self.append_in(tx, records)

    def append_in(self, tx: sa.Connection, records: list[UsageRecord]) -> int:
        limits = self._spending.limiting(tx, records)
        last = self.limits.last_number(tx) if limits else 0
        added = self._store.insert_missing(tx, "usage", [_row(record) for record in records])
        new = records
        if added < len(records):
            for record in records:
                self._check_same(tx, record)
            new = self._added(tx, records, last) if limits else []
        if limits and added != len(new):
            raise Unavailable("Usage reached the ledger from two sides at once. Send it again.")
        self._spending.draw(tx, limits, new)
        return added

    def _added(self, tx: sa.Connection, records: Sequence[UsageRecord], last: int) -> list[UsageRecord]:
        """Those that came behind a number, each once."""
        columns = self._usage.c
        its = columns.source_id.in_([record.source_id for record in records]), columns.id > last
        found = {(kind, id) for kind, id in tx.execute(sa.select(columns.kind, columns.source_id).where(*its))}
        firsts = {(record.kind.value, record.source_id): record for record in reversed(records)}
        return [record for key, record in firsts.items() if key in found]

    def records(self, caller: Caller, kind: UsageKind, since: int = 0, until: int = 2**62) -> list[UsageRecord]:
        columns = self._usage.c
        query = sa.select(self._usage).where(*self._within(caller, since, until), columns.kind == kind.value)
        rows = self._store.rows(query.order_by(columns.time, columns.id))
        return [UsageRecord(**{key: value for key, value in row.items() if key != "id"}) for row in rows]

    def totals(
        self, caller: Caller, group_by: list[GroupBy], since: int = 0, until: int = 2**62
    ) -> list[dict[str, Any]]:
        """Sums by kind and the columns named; `day` and `hour` are the period's start in epoch milliseconds."""
        keys = [self._usage.c.kind, *(group_key(self._usage, name) for name in dict.fromkeys(group_by))]
        sums = [sa.func.sum(self._usage.c[name]).label(name) for name in COUNTS]
        query = sa.select(*keys, sa.func.count().label("records"), *sums).where(*self._within(caller, since, until))
        names = ["kind", *dict.fromkeys(group_by)]  # PostgreSQL takes expressions with values in them for others
        rows = self._store.rows(query.group_by(*names).order_by(*names))
        return [{**row, **{name: int(row[name]) for name in COUNTS}} for row in rows]

    def _within(self, caller: Caller, since: int, until: int) -> list[sa.ColumnElement[bool]]:
        columns = self._usage.c
        return [seen_usage(self._store, self._guard, caller), columns.time >= since, columns.time < until]

    def _check_same(self, tx: sa.Connection, record: UsageRecord) -> None:
        columns = self._usage.c
        same = sa.and_(columns.kind == record.kind.value, columns.source_id == record.source_id)
        row = dict(tx.execute(sa.select(self._usage).where(same)).mappings().one())
        if is_repeat(row, record):
            raise AnsweredTwice(f"Request {record.source_id} was answered twice, and is billed once.")
        if _differs(row, record, _row(record)):
            raise Conflict(f"Usage of {record.kind.value} {record.source_id} is in the ledger with other content.")


def is_repeat(row: Mapping[str, Any], record: UsageRecord) -> bool:
    """Whether the ledger's is another answer to the same request."""
    is_later = row["time"] != record.time  # two answers never end together: it is sent again when a replica is gone
    return record.kind is UsageKind.COMPLETION and is_later and not _differs(row, record, ASKED)


def _differs(row: Mapping[str, Any], record: UsageRecord, names: Iterable[str]) -> bool:
    told = _row(record)
    return any(row[name] != told[name] for name in names)


def seen_usage(store: Store, guard: Guard, caller: Caller, table: str = "usage") -> sa.ColumnElement[bool]:
    """What the caller's roles used; of the whole account for who may see that."""
    with store.reading() as tx:
        return guard.made(tx, caller, Action.READ_USAGE, ObjectKind.USAGE, store.table(table))


def group_key(usage: sa.FromClause, name: GroupBy) -> sa.ColumnElement[Any]:
    """A column of the ledger, or what is made of one: the start of a period, or the statement that a row belongs to."""
    if period := _PERIOD_MS.get(name):
        return (usage.c.time - usage.c.time % period).label(name)
    if name == "query":
        return query_id(usage)
    return usage.c[name]


def query_id(usage: sa.FromClause) -> sa.ColumnElement[Any]:
    """The id of the request that the record came with; rows of one SQL statement are `<id>-0`, `<id>-1`, ..."""
    numbered = sa.func.rtrim(sa.func.rtrim(usage.c.source_id, "0123456789"), "-")
    return sa.case((usage.c.source_id.like("req\\_%-%", escape="\\"), numbered), else_=usage.c.source_id).label("query")


def _row(record: UsageRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"leases"})
