"""Rows of limits and reservations, moved inside the transaction of what moves them.

Every sum that a limit shows stands in its row, so reading is O(1). A reservation is taken by one conditional UPDATE,
which no other writer can pass: this alone keeps spent + reserved <= granted + overrun (platform/credits.py).
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.credits import ACCOUNT, Period, period_start, refusal, scopes_of
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.prices import to_credits
from luthier.platform.registry.notices import Notices
from luthier.platform.registry.paging import named_page
from luthier.platform.store import Store
from luthier.platform.webhooks import NoticeType

log = logging.getLogger(__name__)

Row = dict[str, Any]
TOLD_ON = {
    NoticeType.BUDGET_PASSED: "passed_on",
    NoticeType.BUDGET_REFUSED: "refused_on",
    NoticeType.BALANCE_REFUSED: "refused_on",
    NoticeType.BALANCE_LOW: "low_on",
    NoticeType.BALANCE_OVERDRAWN: "overdrawn_on",
}
"""When each was told."""
UNTOLD = dict.fromkeys(TOLD_ON.values())


class Limits:
    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._limits, self._reservations = store.table("limits"), store.table("reservations")
        self._usage = store.table("usage")
        self._notices = Notices(store, clock)

    # limits

    def of_accounts(self, tx: sa.Connection, accounts: Iterable[str]) -> list[Row]:
        """All limits of accounts, each in its present period."""
        columns = self._limits.c
        query = sa.select(self._limits).where(columns.account.in_(sorted(set(accounts)))).with_for_update()
        rows = [dict(row) for row in tx.execute(query.order_by(columns.account, columns.scope)).mappings()]
        return [self._begun(tx, row) for row in rows]

    def read(self, tx: sa.Connection, account: str, limit: int, after: str) -> list[Row]:
        """Those of an account behind a scope, each in its present period; nothing is written."""
        its = sa.select(self._limits).where(self._limits.c.account == account)
        rows = tx.execute(named_page(its, self._limits.c.scope, limit, after)).mappings()
        return [{**row, **self._fresh(dict(row))} for row in rows]

    def find(self, tx: sa.Connection, account: str, scope: str) -> Row | None:
        return next((row for row in self.of_accounts(tx, [account]) if row["scope"] == scope), None)

    def limiting(self, tx: sa.Connection, caller: Caller) -> list[Row]:
        """Those that a caller cannot pass."""
        scopes = scopes_of(caller)
        return [row for row in self.of_accounts(tx, [caller.account]) if row["is_hard"] and row["scope"] in scopes]

    def ensure(self, tx: sa.Connection, account: str, scope: str = ACCOUNT, **given: Any) -> None:
        """The limit is there from now on; a new one has nothing spent."""
        if self.find(tx, account, scope):
            return
        sums = dict.fromkeys(("granted_ucr", "spent_ucr", "reserved_ucr", "overrun_ucr"), 0)
        when = {"is_hard": True, "period": Period.NONE.value, "period_began": 0, "created_on": self._clock()}
        values = {**sums, **when, "after_number": self._last_number(tx), "before_ucr": 0, **given}
        tx.execute(sa.insert(self._limits).values(account=account, scope=scope, **values))

    def grant(self, tx: sa.Connection, account: str, ucr: int) -> None:
        """More balance."""
        self._add(tx, account, ACCOUNT, granted_ucr=ucr)
        self.update(tx, account, ACCOUNT, **UNTOLD)

    def update(self, tx: sa.Connection, account: str, scope: str, **values: Any) -> None:
        tx.execute(sa.update(self._limits).where(self._is(account, scope)).values(**values))

    def delete(self, tx: sa.Connection, account: str, scope: str) -> None:
        """With all that was reserved of it."""
        columns = self._reservations.c
        tx.execute(sa.delete(self._reservations).where(columns.account == account, columns.scope == scope))
        tx.execute(sa.delete(self._limits).where(self._is(account, scope)))

    # reservations

    def hold(self, tx: sa.Connection, caller: Caller, id: str, ucr: int) -> None:
        """Of all that limits the caller, until it is released. PaymentRequired where one has not so much."""
        self.sweep(tx)
        for row in self.limiting(tx, caller):
            if not self.take(tx, row["account"], row["scope"], ucr):
                raise refusal(row["scope"], ucr, available(row), row["reserved_ucr"])
            self.insert(tx, row, id, id, amount_ucr=ucr, turn=0, until=None)

    def take(self, tx: sa.Connection, account: str, scope: str, ucr: int) -> bool:
        """Reserves an amount if there is so much. The one way in which `reserved` ever grows."""
        columns = self._limits.c
        free = columns.granted_ucr - columns.spent_ucr - columns.reserved_ucr
        more = sa.update(self._limits).values(reserved_ucr=columns.reserved_ucr + ucr)
        return tx.execute(more.where(self._is(account, scope), free >= ucr)).rowcount == 1

    def insert(self, tx: sa.Connection, limit: Row, id: str, holder: str, **values: Any) -> None:
        row = {"id": id, "scope": limit["scope"], "account": limit["account"], "holder": holder, "spent_ucr": 0}
        tx.execute(sa.insert(self._reservations).values(**row, **values))

    def reservation(self, tx: sa.Connection, id: str, scope: str) -> Row | None:
        columns = self._reservations.c
        return next(iter(self._reserved(tx, columns.id == id, columns.scope == scope)), None)

    def change(self, tx: sa.Connection, row: Row, total: int, turn: int, until: int) -> None:
        """A lease to another total; what is more has been taken, what is less goes back."""
        self._add(tx, row["account"], row["scope"], reserved_ucr=min(0, total - row["amount_ucr"]))
        values = {"amount_ucr": total, "turn": turn, "until": until}
        tx.execute(sa.update(self._reservations).where(self._is_reservation(row)).values(**values))

    def release(self, tx: sa.Connection, id: str) -> None:
        """What is left of a hold or lease goes back."""
        self._close(tx, self._reserved(tx, self._reservations.c.id == id))

    def release_of(self, tx: sa.Connection, holder: str) -> int:
        """All leases of a holder that is gone, with its usage in the ledger."""
        return self._close(tx, self._reserved(tx, self._reservations.c.holder == holder))

    def sweep(self, tx: sa.Connection) -> int:
        """Leases whose time, and the time for late usage, is over."""
        return self._close(tx, self._reserved(tx, self._reservations.c.until < self._clock()))

    def reserved(self, tx: sa.Connection, account: str, scope: str) -> list[Row]:
        columns = self._reservations.c
        return self._reserved(tx, columns.account == account, columns.scope == scope)

    # usage

    def draw(self, tx: sa.Connection, limits: Sequence[Row], records: Sequence[UsageRecord]) -> None:
        """New usage is spent: of the reservations that it names, storage of what is available, all else as an overrun.

        It is never refused.
        """
        names = {name for record in records for name in record.leases}
        found = self._reserved(tx, self._reservations.c.id.in_(sorted(names))) if names else []
        for limit in limits:
            mine = [record for record in records if _is_limited(limit, record)]
            paid = _payments(mine, [row for row in found if _is_of(row, limit)])
            for id, ucr in paid.items():
                self._spend(tx, id, limit["scope"], ucr)
            stored = self._reserve_storage(tx, limit, mine)
            spent, covered = sum(record.amount_ucr for record in mine), sum(paid.values()) + stored
            sums = {"spent_ucr": spent, "reserved_ucr": -covered, "overrun_ucr": spent - covered}
            self._add(tx, limit["account"], limit["scope"], **sums)
            if limit["is_hard"] and spent > covered:
                log.warning("%s %s: nothing covered %d ucr", limit["account"], limit["scope"], spent - covered)
            self._tell_spent(tx, {**limit, "spent_ucr": limit["spent_ucr"] + spent})

    def tell_refused(self, tx: sa.Connection, limit: Row) -> None:
        """Somebody was refused for want of it: told once in a period, and once for each amount that was granted."""
        type = NoticeType.BUDGET_REFUSED if limit["scope"] else NoticeType.BALANCE_REFUSED
        self._tell(tx, type, limit)

    def _tell_spent(self, tx: sa.Connection, limit: Row) -> None:
        """Of a soft budget that it is passed, of a balance that little is left or too little; as often as refusals."""
        if not limit["is_hard"] and limit["spent_ucr"] > limit["granted_ucr"] and limit["passed_on"] is None:
            log.warning("%s %s: the soft budget is passed", limit["account"], limit["scope"])
            self._tell(tx, NoticeType.BUDGET_PASSED, limit)
        alert = limit["alert_ucr"]
        if alert is not None and limit["granted_ucr"] - limit["spent_ucr"] < alert:
            self._tell(tx, NoticeType.BALANCE_LOW, limit, alert)
        if limit["scope"] == ACCOUNT and limit["spent_ucr"] > limit["granted_ucr"]:
            self._tell(tx, NoticeType.BALANCE_OVERDRAWN, limit)

    def _tell(self, tx: sa.Connection, type: NoticeType, limit: Row, *of: int) -> None:
        """Unless it is told already; the limit knows that longer than the notice is kept."""
        if limit[TOLD_ON[type]] is not None:
            return
        self.update(tx, limit["account"], limit["scope"], **{TOLD_ON[type]: self._clock()})
        kind, _, name = limit["scope"].partition(":")
        owner = {"kind": kind, "name": name, "period": limit["period"], "is_hard": limit["is_hard"]} if kind else {}
        amounts = {"granted": limit["granted_ucr"], "spent": limit["spent_ucr"]}
        if of:
            amounts["alert"] = of[0]
        told = {name: f"{to_credits(ucr):f}" for name, ucr in amounts.items()}
        once = (limit["scope"], limit["period_began"], limit["granted_ucr"], *of)
        self._notices.tell(tx, type, limit["account"], once, **owner, **told)

    def _reserve_storage(self, tx: sa.Connection, limit: Row, records: Sequence[UsageRecord]) -> int:
        """For what nobody reserved before it was there: as much as is available. How much."""
        owed = sum(record.amount_ucr for record in records if record.kind is UsageKind.STORAGE)
        ucr = min(owed, available(limit))
        return ucr if ucr and self.take(tx, limit["account"], limit["scope"], ucr) else 0

    def _spend(self, tx: sa.Connection, id: str, scope: str, ucr: int) -> None:
        columns = self._reservations.c
        more = sa.update(self._reservations).values(spent_ucr=columns.spent_ucr + ucr)
        tx.execute(more.where(columns.id == id, columns.scope == scope))

    # rows

    def _close(self, tx: sa.Connection, rows: list[Row]) -> int:
        freed: dict[tuple[str, str], int] = defaultdict(int)
        for row in rows:
            freed[row["account"], row["scope"]] += row["amount_ucr"] - row["spent_ucr"]
            tx.execute(sa.delete(self._reservations).where(self._is_reservation(row)))
        for (account, scope), ucr in freed.items():
            self._add(tx, account, scope, reserved_ucr=-ucr)
        return len(rows)

    def _begun(self, tx: sa.Connection, row: Row) -> Row:
        """A budget whose period is over begins a new one."""
        fresh = self._fresh(row)
        if not fresh:
            return row
        fresh |= {"after_number": self._last_number(tx), "before_ucr": 0}
        self.update(tx, row["account"], row["scope"], **fresh)
        return {**row, **fresh}

    def _fresh(self, row: Row) -> Row:
        began = period_start(Period(row["period"]), self._clock())
        if began <= row["period_began"]:
            return {}
        return {"period_began": began, "spent_ucr": 0, "overrun_ucr": 0, **UNTOLD}

    def _last_number(self, tx: sa.Connection) -> int:
        """Of the ledger: what comes behind it is spent, what was there is not."""
        return int(tx.execute(sa.select(sa.func.coalesce(sa.func.max(self._usage.c.id), 0))).scalar_one())

    def _reserved(self, tx: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Row]:
        query = sa.select(self._reservations).where(*where).with_for_update()
        return [dict(row) for row in tx.execute(query).mappings()]

    def _add(self, tx: sa.Connection, account: str, scope: str, **amounts: int) -> None:
        columns = self._limits.c
        values = {name: columns[name] + ucr for name, ucr in amounts.items() if ucr}
        if values:
            tx.execute(sa.update(self._limits).where(self._is(account, scope)).values(**values))

    def _is(self, account: str, scope: str) -> sa.ColumnElement[bool]:
        return sa.and_(self._limits.c.account == account, self._limits.c.scope == scope)

    def _is_reservation(self, row: Row) -> sa.ColumnElement[bool]:
        return sa.and_(self._reservations.c.id == row["id"], self._reservations.c.scope == row["scope"])


def available(limit: Row) -> int:
    free: int = limit["granted_ucr"] - limit["spent_ucr"] - limit["reserved_ucr"]
    return max(0, free)


def _payments(records: Sequence[UsageRecord], reservations: Sequence[Row]) -> dict[str, int]:
    """What each reservation pays of the records that name it: each micro-credit once, and no more than it has."""
    left = {row["id"]: row["amount_ucr"] - row["spent_ucr"] for row in reservations}
    paid: dict[str, int] = defaultdict(int)
    for record in records:
        owed = record.amount_ucr
        for id in record.leases:
            ucr = min(owed, left.get(id, 0))
            if ucr:
                owed, left[id], paid[id] = owed - ucr, left[id] - ucr, paid[id] + ucr
    return paid


def _is_limited(limit: Row, record: UsageRecord) -> bool:
    caller = Caller(account=record.account, user=record.user, role=record.role, key=record.key)
    return limit["account"] == record.account and limit["scope"] in scopes_of(caller)


def _is_of(reservation: Row, limit: Row) -> bool:
    return (reservation["account"], reservation["scope"]) == (limit["account"], limit["scope"])
