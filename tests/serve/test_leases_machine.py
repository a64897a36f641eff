"""Leases of balances and budgets under anything in any order: replicas that ask, settle, renew, die and lose answers;
usage that comes twice or late; top-ups, budgets set, lowered and dropped, days that end.

The replicas' code is the real one, over a line that fails. Every sum is what its parts come to, after every step.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from luthier.errors import NotFound, PaymentRequired, Unavailable
from luthier.platform.access import Caller
from luthier.platform.credits import (
    GRACE_MS,
    LEASE_MS,
    Budget,
    BudgetKind,
    Period,
    Renewal,
    Want,
    budget_scope,
    places_of,
)
from luthier.platform.keys import NewKey
from luthier.platform.metering import DAY_MS, UsageRecord
from luthier.platform.registry.balances import Balances
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.metering import leases
from luthier.serve.metering.leases import Leases, Reservation
from luthier.serve.metering.leasing import QUIET_SECONDS
from tests.factories import ADMIN, add_admin, make_record
from tests.fakes import Launcher
from tests.machines import Bench, Length, Machine, Watched, to_its_end

LENGTH, WHERE_SLOW = Length(20, 50, at_least=1_000), Length(4, 50, at_least=200)
START_MS = 20_000 * DAY_MS - 60_000
"""A minute before midnight."""
BY_KEY = ADMIN.model_copy(update={"key": "key_1"})
CALLERS = (BY_KEY, Caller(account="main", user=ADMIN.user, role="R", key="key_2"), ADMIN)
OWNERS = (
    (BudgetKind.ROLE, "R"),
    (BudgetKind.ROLE, ADMIN.role),
    (BudgetKind.USER, ADMIN.user),
    (BudgetKind.KEY, "key_1"),
)
Limit = dict[str, Any]
replicas = st.integers(0, 2)


class Line:
    """The way to the registry: it loses calls and answers, and does some twice."""

    def __init__(self, machine: "LeasesMachine") -> None:
        self._machine = machine
        self.fault = "none"
        self.sent: list[tuple[float, tuple[Any, ...]]] = []

    def renew(self, holder: str, callers: Sequence[Caller], wants: Sequence[Want], grace_ms: int) -> Renewal:
        if self.fault == "cut":
            raise Unavailable("away")
        asked = holder, callers, wants, grace_ms
        self.sent.append((self._machine.now, asked))
        for _ in range(2 if self.fault == "twice" else 1):
            answer = self._machine.registry.credits.renew(*asked)
        if self.fault == "lost":
            raise Unavailable("lost")
        return answer


class Replica:
    def __init__(self, machine: "LeasesMachine") -> None:
        machine.num += 1
        self.name = f"replica_{machine.num}"
        self.line = Line(machine)
        self.leases = Leases(self.line, self.name, lambda: machine.now)
        self.spool: list[UsageRecord] = []

    def leased(self, scope: str | None = None) -> dict[str, leases._Purse]:
        """Its purses, of one limit or of all, by the ids of their leases."""
        purses = [purse for purse in self.leases._purses.values() if isinstance(purse, leases._Purse)]
        return {purse.lease.id: purse for purse in purses if scope in (None, purse.scope)}


@dataclass
class Open:
    """A request that runs."""

    replica: Replica
    reservation: Reservation
    caller: Caller
    ucr: int


@dataclass
class Seen:
    """Of a limit, since it was made."""

    used: int = 0
    """When it was looked at last: spent or reserved, and no overrun."""
    uncovered: int = 0
    """What came without a lease that is there still."""


class LeasesMachine(Machine):
    counts: ClassVar[Counter[str]] = Counter()

    @classmethod
    def is_enough(cls) -> bool:
        often = min(cls.counts[what] for what in ("let in", "refused", "paid"))
        return often >= cls.num_steps // 50 and all(
            cls.counts[what] for what in ("new day", "lowered", "dropped", "late")
        )

    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        self.now, self.num = 0.0, 0
        with mock.patch("luthier.platform.registry.registry.Store", return_value=store):
            self.registry = Registry(Settings(database_url="sqlite://"), Launcher(), self.clock)
        add_admin(self.registry)
        self.registry.roles.create(ADMIN, "R")
        for key in ("key_1", "key_2"):
            self.registry.keys.create(ADMIN, NewKey(id=key, hash=f"hash of {key}", prefix="lt_x"))
        self.loop = asyncio.new_event_loop()
        self.patch = mock.patch.object(leases, "LEASES", SimpleNamespace(run=self.inline))
        self.patch.start()
        self.replicas = [Replica(self) for _ in range(3)]
        self.running: list[Open] = []
        self.late: list[Replica] = []
        """The dead without an heir."""
        self.seen: dict[str, Seen] = defaultdict(Seen)
        self.ended: set[str] = set()
        """Leases of limits that were gone, or not there, for a while."""
        self.rows = tuple(sa.select(store.table(name)) for name in ("limits", "reservations"))
        self.top_up(300)

    def teardown(self) -> None:
        try:
            self.all_comes_back()
        finally:
            self.patch.stop()
            self.loop.close()

    def clock(self) -> int:
        return START_MS + int(self.now * 1000)

    async def inline(self, call: Any, *args: Any) -> Any:
        return call(*args)

    def run(self, work: Awaitable[Any]) -> Any:
        return to_its_end(self.loop, work)

    # replicas

    @rule(number=replicas, caller=st.sampled_from(CALLERS), ucr=st.integers(1, 30))
    def ask(self, number: int, caller: Caller, ucr: int) -> None:
        try:
            self.run(self.taken(self.replicas[number], caller, ucr))
        except Unavailable:
            return
        except PaymentRequired:
            self.counts["refused"] += 1
        else:
            self.counts["let in"] += 1

    @rule(caller=st.sampled_from(CALLERS), ucr=st.integers(1, 20), num=st.integers(3, 9))
    def ask_all(self, caller: Caller, ucr: int, num: int) -> None:
        for number in range(num):
            self.ask(number % 3, caller, ucr)

    async def taken(self, replica: Replica, caller: Caller, ucr: int) -> None:
        reservation = replica.leases.open(caller)
        await reservation.take(ucr)
        self.running.append(Open(replica, reservation, caller, ucr))

    @precondition(lambda self: self.running)
    @rule(share=st.sampled_from([20, 100]), num=st.integers(1, 9))
    def settle_some(self, share: int, num: int) -> None:
        for _ in range(min(num, len(self.running))):
            self.settle(0, share)

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 9), share=st.sampled_from([0, 20, 100, 100]))
    def settle(self, number: int, share: int) -> None:
        done = self.running.pop(number % len(self.running))
        cost = done.ucr * share // 100
        paying = done.reservation.settle(cost)
        self.num += 1
        whose = done.caller.model_dump()
        done.replica.spool.append(make_record(f"req_{self.num}", **whose, amount_ucr=cost, leases=paying))

    @rule(number=replicas, is_twice=st.booleans())
    def flush(self, number: int, is_twice: bool) -> None:
        spool = self.replicas[number].spool
        self.deliver(spool)
        if is_twice:
            assert self.registry.ledger.append(spool) == 0
        self.replicas[number].spool = []

    @rule(number=replicas, fault=st.sampled_from(["none", "none", "none", "cut", "lost", "twice"]))
    def renew(self, number: int, fault: str) -> None:
        replica = self.replicas[number]
        replica.line.fault = fault
        with suppress(Unavailable):
            self.run(replica.leases.renew_all())

    @rule(number=replicas, which=st.integers(0, 9))
    def an_old_ask_comes_again(self, number: int, which: int) -> None:
        """Of the last half minute."""
        sent = self.replicas[number].line.sent
        if late := [asked for when, asked in sent if self.now - when <= LEASE_MS / 1000]:
            self.registry.credits.renew(*late[which % len(late)])

    @rule(number=replicas, has_heir=st.booleans())
    def die(self, number: int, has_heir: bool) -> None:
        """What ran there is lost, what it spooled is not."""
        dead = self.replicas[number]
        self.replicas[number] = Replica(self)
        self.running = [each for each in self.running if each.replica is not dead]
        if has_heir:
            self.deliver(dead.spool)
            self.registry.credits.end_holder(dead.name)
        else:
            self.late.append(dead)

    @precondition(lambda self: self.late)
    @rule()
    def late_usage_comes(self) -> None:
        self.counts["late"] += 1
        for dead in self.late:
            self.deliver(dead.spool)
        self.late = []

    @rule(seconds=st.sampled_from([0.3, 2.0, 2.0, 2.0, 10.0, 26.0, 40.0, 700.0, 4_000.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        before = self.clock() // DAY_MS
        self.now += seconds
        self.counts["new day"] += self.clock() // DAY_MS > before

    # people

    @rule(ucr=st.integers(20, 300))
    def top_up(self, ucr: int) -> None:
        self.num += 1
        self.registry.credits.top_up(ADMIN, "main", ucr, f"key_{self.num}")

    @rule(
        owner=st.sampled_from(OWNERS),
        ucr=st.sampled_from([0, 30, 100, 300]),
        period=st.sampled_from([Period.NONE, Period.DAY]),
        is_hard=st.sampled_from([True, True, False]),
    )
    def set_budget(self, owner: tuple[BudgetKind, str], ucr: int, period: Period, is_hard: bool) -> None:
        scope, before = budget_scope(*owner), self.limits().get(budget_scope(*owner))
        if before is None:
            self.forget(scope)
        self.counts["lowered"] += before is not None and before["reserved_ucr"] > 0 and ucr < before["granted_ucr"]
        budget = Budget(kind=owner[0], name=owner[1], granted_ucr=ucr, period=period, is_hard=is_hard)
        self.registry.budgets.set(ADMIN, budget)

    @rule(owner=st.sampled_from(OWNERS))
    def drop_budget(self, owner: tuple[BudgetKind, str]) -> None:
        with suppress(NotFound):
            self.registry.budgets.drop(ADMIN, *owner)
            self.counts["dropped"] += 1
        self.forget(budget_scope(*owner))

    def forget(self, scope: str) -> None:
        self.seen.pop(scope, None)
        self.ended |= {id for replica in self.replicas for id in replica.leased(scope)}

    # what must hold

    def deliver(self, records: Sequence[UsageRecord]) -> None:
        """What a lease was there for is no overrun."""
        reserved = {(row["id"], row["scope"]) for row in self.store.rows(self.rows[1])}
        before = {scope: limit["overrun_ucr"] for scope, limit in self.limits().items()}
        uncovered = Counter[str]()
        for record in records:
            for _, scope in places_of(record):
                if not any((id, scope) in reserved for id in record.leases):
                    uncovered[scope] += record.amount_ucr
                else:
                    self.counts["paid"] += 1
        assert self.registry.ledger.append(list(records)) == len(records)
        for scope, limit in self.limits().items():
            assert limit["overrun_ucr"] - before[scope] <= uncovered[scope], scope
            self.seen[scope].uncovered += uncovered[scope]

    def limits(self) -> dict[str, Limit]:
        return {row["scope"]: row for row in self.store.rows(self.rows[0])}

    def look(self) -> tuple[dict[str, Limit], dict[str, int], list[Any]]:
        with self.store.reading() as tx:
            differences = [each for each in Balances(self.store).differences(tx) if each[2] != each[3]]
        return self.limits(), {row["id"]: row["amount_ucr"] for row in self.store.rows(self.rows[1])}, differences

    @invariant()
    def all_of_it(self) -> None:
        limits, amounts, differences = self.looked_up(self.look)
        assert differences == []
        for scope, limit in limits.items():
            seen, overrun = self.seen[scope], limit["overrun_ucr"]
            used = limit["spent_ucr"] + limit["reserved_ucr"] - overrun
            assert used <= max(limit["granted_ucr"], seen.used), f"{scope} is passed"
            assert overrun <= seen.uncovered, f"{scope}: what a lease was there for is an overrun"
            seen.used = used
        for id, purse in ((id, purse) for replica in self.replicas for id, purse in replica.leased().items()):
            lease = purse.lease
            assert lease.used + lease.open <= lease.total or lease.ends <= self.now
            if self.now < lease.ends and purse.scope in limits and id not in self.ended:
                assert lease.total <= amounts.get(id, 0), f"{purse.scope}: more than what is set aside"

    def all_comes_back(self) -> None:
        while self.running:
            self.settle(0, 100)
        for number in range(3):
            self.flush(number, is_twice=True)
        self.now += QUIET_SECONDS + 1
        for number in (0, 1, 2, 0, 1, 2):
            self.renew(number, "none")
        self.all_of_it()
        held = {row["holder"] for row in self.store.rows(self.rows[1]) if row["amount_ucr"] > row["spent_ucr"]}
        assert not held & {replica.name for replica in self.replicas}
        self.now += (LEASE_MS + GRACE_MS) / 1000 + 1
        self.registry.credits.renew("nobody", [], [])
        self.all_of_it()
        assert self.store.rows(self.rows[1]) == []
        assert {limit["reserved_ucr"] for limit in self.limits().values()} <= {0}


def test_leases(bench: Bench) -> None:
    LeasesMachine.counts.clear()
    bench.run(LeasesMachine, LENGTH, WHERE_SLOW)
