"""Verbs on the ledger: append usage records, once each. What it holds is read in usage.py."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.errors import AnsweredTwice, Conflict, Unavailable
from luthier.platform.jobs import now_ms
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.limits import Limits
from luthier.platform.registry.spending import Spending
from luthier.platform.store import Store, fetch

ASKED = ("kind", "source_id", "account", "user", "role", "key", "function")
"""What tells requests apart, whatever is answered."""


class Ledger:
    def __init__(self, store: Store, clock: Callable[[], int] = now_ms) -> None:
        self._store, self.limits = store, Limits(store, clock)
        self._spending = Spending(self.limits)
        self._usage = store.table("usage")

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

    def _check_same(self, tx: sa.Connection, record: UsageRecord) -> None:
        columns = self._usage.c
        same = sa.and_(columns.kind == record.kind.value, columns.source_id == record.source_id)
        (row,) = fetch(tx, sa.select(self._usage).where(same))
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


def _row(record: UsageRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"leases"})
