"""What limits show against the rows that made it so: top-ups, the ledger, reservations, jobs under way."""

from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from luthier.platform.credits import ACCOUNT, BudgetKind
from luthier.platform.jobs import ACTIVE
from luthier.platform.metering import UsageKind
from luthier.platform.store import Store, fetch

MAX_NAMED = 5


class Balances:
    def __init__(self, store: Store) -> None:
        self._limits, self._topups = store.table("limits"), store.table("topups")
        self._reservations, self._usage, self._jobs = map(store.table, ("reservations", "usage", "jobs"))

    def differences(self, tx: sa.Connection) -> Iterator[tuple[str, str, int, int, str]]:
        """Of each limit: whose, what, as the limit shows it, as the rows add up to it, and whose rows are wrong."""
        query = sa.select(self._limits).order_by(self._limits.c.account, self._limits.c.scope)
        for row in fetch(tx, query):
            of = f"{row['account']} {row['scope'].replace(':', ' ')}".strip()
            for what, total in self._totals(row).items():
                yield of, what, row[what], total(tx), ""
            if row["scope"] == ACCOUNT:
                held, due, names = self._held(tx, row["account"])
                yield of, "held_ucr", held, due, ", ".join(names)

    def _totals(self, row: Any) -> dict[str, Callable[[sa.Connection], int]]:
        """Sums that are made anew. What a budget grants is set, and no sum."""
        topups, reserved, usage = self._topups.c, self._reservations.c, self._usage.c
        its = (reserved.account == row["account"], reserved.scope == row["scope"])
        spent = (usage.account == row["account"], usage.id > row["after_number"], self._is_of(row["scope"]))
        totals = {
            "spent_ucr": lambda tx: row["before_ucr"] + _sum(tx, usage.amount_ucr, *spent),
            "reserved_ucr": lambda tx: _sum(tx, reserved.amount_ucr - reserved.spent_ucr, *its),
        }
        if row["scope"] == ACCOUNT:
            totals["granted_ucr"] = lambda tx: _sum(tx, topups.amount_ucr, topups.account == row["account"])
        return totals

    def _is_of(self, scope: str) -> sa.ColumnElement[bool]:
        """Records that a limit of that scope pays for."""
        kind, _, name = scope.partition(":")
        usage, in_budgets = self._usage.c, self._usage.c.kind != UsageKind.STORAGE.value
        return sa.and_(usage[BudgetKind(kind).value] == name, in_budgets) if kind else sa.true()

    def _held(self, tx: sa.Connection, account: str) -> tuple[int, int, list[str]]:
        """For jobs: all, and for those that are under way; and the others' ids."""
        reserved, jobs = self._reservations.c, self._jobs.c
        joined = sa.outerjoin(self._reservations, self._jobs, jobs.id == reserved.id)
        left = (reserved.amount_ucr - reserved.spent_ucr).label("left")
        query = sa.select(reserved.id, left, jobs.status).select_from(joined)
        held = query.where(reserved.account == account, reserved.scope == ACCOUNT, reserved.until.is_(None))
        rows = fetch(tx, held.order_by(reserved.id))
        active = [row for row in rows if row["status"] in ACTIVE]
        over = [row["id"] for row in rows if row["status"] not in ACTIVE]
        return sum(row["left"] for row in rows), sum(row["left"] for row in active), over[:MAX_NAMED]


def _sum(tx: sa.Connection, of: sa.ColumnElement[int], *where: sa.ColumnElement[bool]) -> int:
    return int(tx.execute(sa.select(sa.func.coalesce(sa.func.sum(of), 0)).where(*where)).scalar_one())
