"""Credits under anything in any order: top-ups, jobs, leases, usage, storage, repeats, lost answers, deaths, time.

The rules of platform/credits.py must hold after every step, and every sum must be what its parts come to.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
)

from luthier.errors import Conflict, NotFound, PaymentRequired
from luthier.platform.credits import GRACE_MS, LEASE_MS, Want
from luthier.platform.jobs import ACTIVE, JobError, JobStatus
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_progress, make_record
from tests.fakes import Launcher
from tests.machines import Bench, Length, Machine, Watched

MARGIN_MS = 5_000
LENGTH, WHERE_SLOW = Length(28, 500, at_least=10_000), Length(2, 200, at_least=200)
Rows = list[dict[str, Any]]
numbers = st.integers(0, 3)
amounts = st.integers(0, 60)


@dataclass
class Lease:
    """As its holder counts it."""

    id: str
    turn: int = 0
    total: int = 0
    used: int = 0
    open: list[int] = field(default_factory=list)
    ends: int = 0

    @property
    def base(self) -> int:
        return self.used + sum(self.open)


@dataclass
class Replica:
    name: str
    lease: Lease
    is_alive: bool = True
    spool: list[UsageRecord] = field(default_factory=list)


class CreditsMachine(Machine):
    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        self.now, self.num = 1_000_000, 0
        self.launcher = Launcher(num_jobs=2)
        settings = Settings(database_url="sqlite://")
        with mock.patch("luthier.platform.registry.registry.Store", return_value=store):
            self.registry = Registry(settings, self.launcher, lambda: self.now)
        add_admin(self.registry)
        self.replicas = [self.new_replica() for _ in range(3)]
        self.given: dict[str, int] = {}
        self.sent: list[UsageRecord] = []
        self.before: set[str] = set()
        """Usage of before the limit, which is no part of it."""
        self.unheld: set[str] = set()
        """Jobs of before the limit."""
        self.late: list[Replica] = []
        """The dead without an heir."""
        self.uncovered = 0
        """All that may be an overrun."""
        tables = (self.store.table(name) for name in ("limits", "reservations", "usage", "jobs"))
        limits, reservations, usage, jobs = tables
        active = sa.select(jobs.c.id).where(jobs.c.status.in_(ACTIVE))
        self.looks = (
            sa.select(limits),
            sa.select(reservations),
            sa.select(usage.c.source_id, usage.c.amount_ucr),
            active,
        )

    def name(self, kind: str) -> str:
        self.num += 1
        return f"{kind}_{self.num}"

    def new_replica(self) -> Replica:
        return Replica(self.name("replica"), Lease(self.name("lease")))

    @initialize(is_limited=st.booleans())
    def begin(self, is_limited: bool) -> None:
        if is_limited:
            self.top_up(100, 0)

    # people

    @rule(ucr=st.integers(1, 100), number=numbers)
    def top_up(self, ucr: int, number: int) -> None:
        key = f"k{number}"
        known = self.given.get(key, ucr)
        try:
            self.registry.credits.top_up(ADMIN, "main", ucr, key)
            assert known == ucr
        except Conflict:
            assert known != ucr
        if not self.given:
            usage = self.store.table("usage")
            self.before = {row["source_id"] for row in self.store.rows(sa.select(usage.c.source_id))}
        self.given.setdefault(key, ucr)

    @rule(number=numbers, tokens=st.integers(1, 900))
    def submit(self, number: int, tokens: int) -> None:
        job_id = self.name("ft") if number else "ft_0"
        job = make_job(job_id, f"LUTHIER.PUBLIC.{job_id}", base_model="smollm2-135m")
        self.registry.credits.renew("nobody", [], [])  # takes back the leases whose time is over, as submit does
        free = self.balance()[0] if self.given else 10**9
        had_it = bool(self.job(job_id))
        try:
            self.registry.jobs.submit(job.model_copy(update={"report": {"rows": 2, "trained_tokens": tokens}}))
        except PaymentRequired:
            assert -(-tokens // 10) > free
        except Conflict:
            assert had_it
        else:
            assert had_it or -(-tokens // 10) <= free
            if not self.given:
                self.unheld.add(job_id)

    @rule()
    def tick(self) -> None:
        self.registry.jobs.tick()

    @rule(which=numbers, share=st.integers(0, 100), end=st.sampled_from(["finish", "finish", "fail", "lost", "cancel"]))
    def end_job(self, which: int, share: int, end: str) -> None:
        running = [job for job in self.registry.jobs.show(ADMIN) if job.status is JobStatus.IN_PROGRESS]
        if not running:
            return
        job = running[which % len(running)]
        trained = job.report["trained_tokens"] * share // 100
        for _ in range(2):  # each verb may be called twice
            if end == "finish":
                self.registry.jobs.finish(job.id, make_finished(trained_tokens=trained, sha256=job.id))
            elif end == "cancel":
                self.registry.jobs.report(job.id, make_progress(trained_tokens=trained))
                with suppress(Conflict):
                    self.registry.jobs.cancel(ADMIN, job.id)
            else:
                self.registry.jobs.report(job.id, make_progress(trained_tokens=trained))
                error = JobError(code="X", message="x")
                self.registry.jobs.fail(job.id, error, billable=end == "fail")
        if self.given and job.id in self.unheld:
            self.uncovered += -(-trained // 10)

    # replicas

    @rule(which=numbers, change=st.integers(-40, 60), waiting=amounts, is_lost=st.booleans(), is_done=st.booleans())
    def renew(self, which: int, change: int, waiting: int, is_lost: bool, is_done: bool) -> None:
        """An ask whose answer is lost, or that never came to be done, or both."""
        replica = self.replicas[which % 3]
        lease = replica.lease
        lease.turn += 1
        if change < 0:
            lease.total = max(lease.base, lease.total + change)
        want = Want(
            id=lease.id,
            account="main",
            turn=lease.turn,
            total_ucr=max(lease.total, lease.base + waiting + max(0, change)),
            need_ucr=lease.base + waiting,
        )
        if not is_done:
            return
        (granted,) = self.registry.credits.renew(replica.name, [ADMIN], [want]).leases
        again = self.registry.credits.renew(replica.name, [], [want])  # as Ray may do
        if not self.given:
            lease.turn = 0  # nothing is limited, so nothing is leased
            return
        assert again.leases[0].total_ucr == granted.total_ucr
        if is_lost:
            return
        if granted.total_ucr is None:
            assert not self.row(lease.id)
            replica.lease = Lease(self.name("lease"))
            return
        assert granted.total_ucr >= lease.total
        lease.total, lease.ends = granted.total_ucr, self.now + LEASE_MS - MARGIN_MS

    @rule(which=numbers, ucr=amounts)
    def reserve(self, which: int, ucr: int) -> None:
        lease = self.replicas[which % 3].lease
        if self.now < lease.ends and lease.total - lease.base >= ucr:
            lease.open.append(ucr)

    @rule(which=numbers, share=st.integers(0, 100))
    def settle(self, which: int, share: int) -> None:
        replica = self.replicas[which % 3]
        lease = replica.lease
        if lease.open:
            cost = lease.open.pop() * share // 100
            lease.used += cost
            replica.spool.append(make_record(self.name("req"), amount_ucr=cost, leases=(lease.id,)))

    @rule(which=numbers, num=st.integers(1, 4))
    def flush(self, which: int, num: int) -> None:
        replica = self.replicas[which % 3]
        self.deliver(replica.spool[:num])
        del replica.spool[:num]

    @rule(ucr=amounts)
    def usage_of_nobodys_lease(self, ucr: int) -> None:
        self.deliver([make_record(self.name("req"), amount_ucr=ucr)])

    @rule(ucr=st.integers(0, 150))
    def storage(self, ucr: int) -> None:
        """Paid of what is available; what there is not so much of is an overrun, to the micro-credit."""
        free = self.balance()[0] if self.given else 0
        before = self.overrun()
        record = make_record(self.name("day"), kind=UsageKind.STORAGE, amount_ucr=ucr)
        assert self.registry.ledger.append([record]) == 1
        self.sent.append(record)
        if self.given:
            assert self.overrun() - before == max(0, ucr - free)
            self.uncovered += max(0, ucr - free)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 1000), num=st.integers(1, 3))
    def the_same_flush_again(self, which: int, num: int) -> None:
        at = which % len(self.sent)
        assert self.registry.ledger.append(self.sent[at : at + num]) == 0

    @rule(which=numbers, has_heir=st.booleans())
    def die(self, which: int, has_heir: bool) -> None:
        """Killed, with usage in its spool; its heir takes that over, or nobody ever does."""
        dead = self.replicas[which % 3]
        self.replicas[which % 3] = self.new_replica()
        if has_heir:
            self.deliver(dead.spool)
            self.registry.credits.end_holder(dead.name)
            assert not self.row(dead.lease.id)
        elif dead.spool:
            self.late.append(dead)

    @rule()
    def late_usage_comes(self) -> None:
        for dead in self.late:
            self.deliver(dead.spool)
        self.late = []

    @rule(ms=st.sampled_from([1, 1_000, 10_000, 10_000, LEASE_MS, GRACE_MS // 2, GRACE_MS + LEASE_MS]))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    # what must hold

    def deliver(self, records: list[UsageRecord]) -> None:
        if self.given:
            self.uncovered += sum(
                record.amount_ucr for record in records if not any(self.row(id) for id in record.leases)
            )
        assert self.registry.ledger.append(records) == len(records)
        self.sent += records

    def look(self) -> list[Rows]:
        with self.store.reading() as tx:
            return [[dict(row) for row in tx.execute(query).mappings()] for query in self.looks]

    @invariant()
    def all_of_it(self) -> None:
        limits, reservations, usage, jobs = self.looked_up(self.look)
        self.sums_are_those_of_their_parts(limits, reservations, usage)
        self.nobody_counts_on_more_than_there_is({row["id"]: row["amount_ucr"] for row in reservations})
        active = {row["id"] for row in jobs}
        assert {row["id"] for row in reservations if row["until"] is None} <= active

    def sums_are_those_of_their_parts(self, limits: Rows, reservations: Rows, usage: Rows) -> None:
        if not self.given:
            assert not limits
            assert not reservations
            return
        (limit,) = limits
        assert limit["spent_ucr"] + limit["reserved_ucr"] <= limit["granted_ucr"] + limit["overrun_ucr"]
        assert limit["overrun_ucr"] <= self.uncovered
        assert limit["granted_ucr"] == sum(self.given.values())
        assert limit["reserved_ucr"] == sum(row["amount_ucr"] - row["spent_ucr"] for row in reservations)
        assert limit["spent_ucr"] == sum(row["amount_ucr"] for row in usage if row["source_id"] not in self.before)

    def nobody_counts_on_more_than_there_is(self, known: dict[str, int]) -> None:
        for lease in (replica.lease for replica in self.replicas):
            if self.now < lease.ends:
                assert lease.base <= lease.total <= known[lease.id]

    # rows

    def balance(self) -> tuple[int, int]:
        balance = self.registry.credits.balance(ADMIN)
        return balance.available_ucr, balance.spent_ucr

    def overrun(self) -> int:
        return sum(row["overrun_ucr"] for row in self.store.rows(self.looks[0]))

    def row(self, id: str) -> dict[str, Any] | None:
        return next((row for row in self.store.rows(self.looks[1]) if row["id"] == id), None)

    def job(self, job_id: str) -> object | None:
        with suppress(NotFound):
            return self.registry.jobs.get(ADMIN, job_id)
        return None


def test_credits(bench: Bench) -> None:
    bench.run(CreditsMachine, LENGTH, WHERE_SLOW)
