"""Rows of limits and reservations, moved inside the transaction of what moves them.

Every sum that a limit shows stands in its row, so reading is O(1). A reservation is taken by one conditional UPDATE,
which no other writer can pass: this alone keeps spent + reserved <= granted + overrun (platform/credits.py). However
many limits are asked for at once, they are read by one statement and written by one.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.credits import ACCOUNT, Period, Place, Shortage, period_start, places_of
from luthier.platform.privileges import Action
from luthier.platform.registry.limit_notices import UNTOLD, LimitNotices
from luthier.platform.registry.paging import named_page
from luthier.platform.store import Row, Store, fetch


class Limits:
    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store, self._clock = store, clock
        self._limits, self._reservations = store.table("limits"), store.table("reservations")
        self._usage = store.table("usage")
        self.notices = LimitNotices(store, clock)

    # limits

    def find_all(self, tx: sa.Connection, places: Collection[Place]) -> dict[Place, Row]:
        """The limits that there are in these places, each in its present period; nobody else moves them meanwhile."""
        if not places:
            return {}
        given = self._given([(place, {}) for place in sorted(set(places))])
        query = sa.select(self._limits).join(given, self._is_given(given)).with_for_update(of=self._limits)
        rows = fetch(tx, query.order_by(self._limits.c.account, self._limits.c.scope))
        return {place_of(row): row for row in self._begun(tx, rows)}

    def find(self, tx: sa.Connection, account: str, scope: str) -> Row | None:
        return self.find_all(tx, [(account, scope)]).get((account, scope))

    def limiting(self, tx: sa.Connection, caller: Caller) -> list[Row]:
        """Those that a caller cannot pass."""
        return [row for row in self.find_all(tx, places_of(caller)).values() if row["is_hard"]]

    def read(self, tx: sa.Connection, account: str, limit: int, after: str) -> list[Row]:
        """Those of an account behind a scope, each in its present period; nothing is written."""
        its = sa.select(self._limits).where(self._limits.c.account == account)
        rows = fetch(tx, named_page(its, self._limits.c.scope, limit, after))
        return [{**row, **self._fresh(row)} for row in rows]

    def num_budgets(self, tx: sa.Connection, account: str) -> int:
        columns = self._limits.c
        count = sa.select(sa.func.count()).where(columns.account == account, columns.scope != ACCOUNT)
        return int(tx.execute(count).scalar_one())

    def ensure(self, tx: sa.Connection, account: str, scope: str = ACCOUNT, **given: Any) -> None:
        """The limit is there from now on; a new one has nothing spent."""
        if self.find(tx, account, scope):
            return
        sums = dict.fromkeys(("granted_ucr", "spent_ucr", "reserved_ucr", "overrun_ucr"), 0)
        when = {"is_hard": True, "period": Period.NONE.value, "period_began": 0, "created_on": self._clock()}
        values = {**sums, **when, "after_number": self.last_number(tx), "before_ucr": 0, **given}
        tx.execute(sa.insert(self._limits).values(account=account, scope=scope, **values))

    def grant(self, tx: sa.Connection, account: str, ucr: int) -> None:
        """More balance."""
        self.add_all(tx, {(account, ACCOUNT): {"granted_ucr": ucr}})
        self.update(tx, account, ACCOUNT, **UNTOLD)

    def update(self, tx: sa.Connection, account: str, scope: str, **values: Any) -> None:
        tx.execute(sa.update(self._limits).where(_is(self._limits, (account, scope))).values(**values))

    def delete(self, tx: sa.Connection, account: str, scope: str) -> None:
        """With all that was reserved of it."""
        for table in (self._reservations, self._limits):
            tx.execute(sa.delete(table).where(_is(table, (account, scope))))

    def take_all(self, tx: sa.Connection, amounts: Mapping[Place, int]) -> set[Place]:
        """Reserves an amount of each that has so much. The one way in which `reserved` ever grows. Which had it."""
        if not amounts:
            return set()
        given = self._given([(place, {"reserved_ucr": ucr}) for place, ucr in amounts.items()])
        columns, more = self._limits.c, given.c.reserved_ucr
        free = columns.granted_ucr - columns.spent_ucr - columns.reserved_ucr
        taken = sa.update(self._limits).where(self._is_given(given), free >= more)
        taken = taken.values(reserved_ucr=columns.reserved_ucr + more)
        return {(row.account, row.scope) for row in tx.execute(taken.returning(columns.account, columns.scope))}

    def add_all(self, tx: sa.Connection, amounts: Mapping[Place, Mapping[str, int]]) -> None:
        """To the same sums of each."""
        if amounts:
            given = self._given(list(amounts.items()))
            names = next(iter(amounts.values()))
            more = {name: self._limits.c[name] + given.c[name] for name in names}
            tx.execute(sa.update(self._limits).where(self._is_given(given)).values(**more))

    def last_number(self, tx: sa.Connection) -> int:
        """Of the ledger: what comes behind it is spent, what was there is not."""
        return int(tx.execute(sa.select(sa.func.coalesce(sa.func.max(self._usage.c.id), 0))).scalar_one())

    # reservations

    def hold(self, tx: sa.Connection, caller: Caller, id: str, ucr: int, may: Callable[[Action], bool]) -> None:
        """Of all that limits the caller, until it is released. PaymentRequired where one has not so much; `may` says
        what of it the caller is told.
        """
        self.sweep(tx)
        limits = self.limiting(tx, caller)
        for row in limits:
            if not self.take_all(tx, {place_of(row): ucr}):
                shortage = Shortage(row["scope"], ucr, available(row), row["reserved_ucr"])
                raise shortage.refusal(may(shortage.is_told_to))
        self.insert(tx, [reservation(place_of(row), id, id, amount_ucr=ucr) for row in limits])

    def insert(self, tx: sa.Connection, rows: Sequence[Row]) -> None:
        if rows:
            tx.execute(sa.insert(self._reservations), rows)

    def change(self, tx: sa.Connection, rows: Sequence[Row]) -> None:
        """Leases to what they are now."""
        if rows:
            names = ("id", "scope", "amount_ucr", "turn", "until")
            given = self._store.given("reservations", [{name: row[name] for name in names} for row in rows])
            values = {name: given.c[name] for name in names[2:]}
            tx.execute(sa.update(self._reservations).where(self._is_reservation(given)).values(**values))

    def pay_all(self, tx: sa.Connection, payments: Sequence[tuple[Place, str, int]]) -> None:
        """Of each limit, by the reservation of an id, so much."""
        if payments:
            rows = [{"id": id, "scope": scope, "spent_ucr": ucr} for (_, scope), id, ucr in payments]
            given = self._store.given("reservations", rows)
            more = {"spent_ucr": self._reservations.c.spent_ucr + given.c.spent_ucr}
            tx.execute(sa.update(self._reservations).where(self._is_reservation(given)).values(**more))

    def reservations(self, tx: sa.Connection, ids: Collection[str]) -> list[Row]:
        """Of all limits."""
        if not ids:
            return []
        given = self._store.given("reservations", [{"id": id} for id in sorted(set(ids))])
        query = sa.select(self._reservations).join(given, self._reservations.c.id == given.c.id)
        return fetch(tx, query.with_for_update(of=self._reservations))

    def reserved(self, tx: sa.Connection, account: str, scope: str) -> list[Row]:
        return fetch(tx, sa.select(self._reservations).where(_is(self._reservations, (account, scope))))

    def release(self, tx: sa.Connection, id: str) -> None:
        """What is left of a hold or lease goes back."""
        self._close(tx, self._reservations.c.id == id)

    def release_of(self, tx: sa.Connection, holder: str) -> int:
        """All leases of a holder that is gone, with its usage in the ledger."""
        return self._close(tx, self._reservations.c.holder == holder)

    def sweep(self, tx: sa.Connection) -> int:
        """Leases whose time, and the time for late usage, is over."""
        return self._close(tx, self._reservations.c.until < self._clock())

    def keep(self, tx: sa.Connection, until: int) -> None:
        """Leases, to that time at the least."""
        ends = self._reservations.c.until
        tx.execute(sa.update(self._reservations).where(ends < until).values(until=until))

    # rows

    def _close(self, tx: sa.Connection, its: sa.ColumnElement[bool]) -> int:
        rows = fetch(tx, sa.select(self._reservations).where(its).with_for_update())
        if rows:
            tx.execute(sa.delete(self._reservations).where(its))
            freed: dict[Place, int] = defaultdict(int)
            for row in rows:
                freed[place_of(row)] += row["amount_ucr"] - row["spent_ucr"]
            self.add_all(tx, {place: {"reserved_ucr": -ucr} for place, ucr in freed.items()})
        return len(rows)

    def _begun(self, tx: sa.Connection, rows: list[Row]) -> list[Row]:
        """Budgets whose period is over begin a new one."""
        over = [(row, fresh) for row in rows if (fresh := self._fresh(row))]
        if over:
            counted: Row = {"after_number": self.last_number(tx), "before_ucr": 0}
            for row, fresh in over:
                row |= {**fresh, **counted}
                self.update(tx, row["account"], row["scope"], **fresh, **counted)
        return rows

    def _fresh(self, row: Row) -> Row:
        began = period_start(Period(row["period"]), self._clock())
        if began <= row["period_began"]:
            return {}
        return {"period_began": began, "spent_ucr": 0, "overrun_ucr": 0, **UNTOLD}

    def _given(self, rows: Iterable[tuple[Place, Mapping[str, int]]]) -> sa.FromClause:
        return self._store.given("limits", [{"account": place[0], "scope": place[1], **sums} for place, sums in rows])

    def _is_given(self, given: sa.FromClause) -> sa.ColumnElement[bool]:
        return _is(self._limits, (given.c.account, given.c.scope))

    def _is_reservation(self, given: sa.FromClause) -> sa.ColumnElement[bool]:
        return sa.and_(self._reservations.c.id == given.c.id, self._reservations.c.scope == given.c.scope)


def _is(table: sa.Table, place: tuple[Any, Any]) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.account == place[0], table.c.scope == place[1])


def place_of(row: Row) -> Place:
    """Of a limit, or of what is reserved of one."""
    return row["account"], row["scope"]


def reservation(place: Place, id: str, holder: str, amount_ucr: int = 0, until: int | None = None) -> Row:
    """A new one, of which nothing is spent; without an end it is a hold."""
    whose = {"account": place[0], "scope": place[1], "id": id, "holder": holder}
    return {**whose, "amount_ucr": amount_ucr, "spent_ucr": 0, "turn": 0, "until": until}


def available(limit: Row) -> int:
    free: int = limit["granted_ucr"] - limit["spent_ucr"] - limit["reserved_ucr"]
    return max(0, free)
