"""The life of jobs under every verb in any order, over supervisors that are lost and a registry that is killed.

Only allowed moves; one end, that stays; a hold as long as a job is under way; a version if and only if it succeeded.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Any
from unittest import mock

import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from luthier.errors import Conflict, NotFound, PaymentRequired
from luthier.platform.jobs import EventType, JobError, JobStatus
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_progress
from tests.fakes import Launcher
from tests.machines import Bench, Length, Machine, Watched
from tests.platform.test_jobs import ALLOWED, FINAL

LENGTH, WHERE_SLOW = Length(23, 500, at_least=10_000), Length(2, 200, at_least=200)
MAX_ATTEMPTS = 2
KEPT_DAYS = 3
DAY_MS = 24 * 3_600_000
ENDS = [each.value for each in (EventType.COMPLETED, EventType.FAILED, EventType.CANCELED)]
ACTIVE = (JobStatus.PENDING.value, JobStatus.IN_PROGRESS.value)
Row = dict[str, Any]
lately = st.integers(0, 4)
"""Which of the last jobs, that there are or were."""


@lru_cache(maxsize=1)
def settings() -> Settings:
    return Settings(database_url="sqlite://", max_attempts=MAX_ATTEMPTS, job_retention_days=KEPT_DAYS)


class JobsMachine(Machine):
    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        self.now, self.launcher = 1_000_000, Launcher(num_jobs=2)
        self.restart(False)
        add_admin(self.registry)
        self.registry.credits.top_up(ADMIN, "main", 400, "k")
        self.ids = ["ft_0"]
        self.known: dict[str, Row] = {}
        """Each job as it was looked at last."""
        self.dropped: set[str] = set()
        """Jobs whose version was dropped later."""
        self.collected: set[str] = set()
        jobs, versions, usage, limits, reservations, events = map(
            self.store.table, ("jobs", "versions", "usage", "limits", "reservations", "events")
        )
        ended = sa.select(events.c.job_id, sa.func.count().label("count")).where(events.c.type.in_(ENDS))
        self.looks = {
            "jobs": sa.select(jobs),
            "versions": sa.select(versions.c.job_id),
            "usage": sa.select(usage.c.source_id, usage.c.trained_tokens, usage.c.evaluated_tokens, usage.c.amount_ucr),
            "limits": sa.select(limits),
            "holds": sa.select(reservations),
            "ends": ended.group_by(events.c.job_id),
        }

    def id(self, which: int) -> str:
        return self.ids[-1 - which % len(self.ids)]

    def attempt(self, verb: Any, *args: Any) -> None:
        """A verb may refuse; what it may never do is break a rule below."""
        with suppress(Conflict, NotFound, PaymentRequired):
            verb(*args)

    # the process

    @rule(are_lost=st.booleans())
    def restart(self, are_lost: bool) -> None:
        """The actor is killed, with the supervisors or without."""
        if are_lost:
            self.launcher.alive.clear()
        with mock.patch("luthier.platform.registry.registry.Store", return_value=self.store):
            self.registry = Registry(settings(), self.launcher, lambda: self.now)

    @rule()
    def tick(self) -> None:
        self.registry.jobs.tick()

    @rule(which=lately, is_noticed=st.booleans())
    def lose(self, which: int, is_noticed: bool) -> None:
        self.launcher.alive.discard(self.id(which))
        if is_noticed:
            self.registry.jobs.tick()

    @rule(days=st.sampled_from([0, 0, 1, KEPT_DAYS + 1]))
    def collect(self, days: int) -> None:
        self.now += days * DAY_MS
        kept_from = self.now - KEPT_DAYS * DAY_MS
        old = {
            id for id, job in self.known.items() if job["finished_on"] is not None and job["finished_on"] < kept_from
        }
        self.registry.retention.forget()
        self.collected |= old

    # people

    @rule(name=st.sampled_from(["M0", "m0", '"m0"', "M1"]), tokens=st.sampled_from([60, 600]), is_version=st.booleans())
    def submit(self, name: str, tokens: int, is_version: bool) -> None:
        self.ids.append(f"ft_{len(self.ids)}")
        self.submit_again(0, name, tokens, is_version)

    @rule(which=lately, name=st.sampled_from(["M0", "M1"]), tokens=st.just(60), is_version=st.booleans())
    def submit_again(self, which: int, name: str, tokens: int, is_version: bool) -> None:
        job_id = self.id(which)
        if job_id in self.collected:
            return  # ids are drawn once
        options = FinetuneOptions(new_version=is_version)
        report = {"rows": 2, "trained_tokens": tokens}
        job = make_job(job_id, f"LUTHIER.PUBLIC.{name}", base_model="smollm2-135m", options=options, report=report)
        self.attempt(self.registry.jobs.submit, job)

    @rule(which=lately)
    def cancel(self, which: int) -> None:
        self.attempt(self.registry.jobs.cancel, ADMIN, self.id(which))

    @rule(which=lately)
    def drop(self, which: int) -> None:
        for model in self.registry.models.show(ADMIN):
            name = parse_name(model.model, "", "")
            made = {version.job_id for version in self.registry.versions.show(ADMIN, name) if version.job_id}
            if self.id(which) in made:
                self.registry.models.drop(ADMIN, name)
                self.dropped |= made

    # the supervisor

    @rule(which=lately, step=st.integers(0, 4))
    def report(self, which: int, step: int) -> None:
        """A step, or a checkpoint; that of a run which went back is an old one."""
        self.attempt(
            self.registry.jobs.report,
            self.id(which),
            make_progress(step, trained_tokens=15 * step, evaluated_tokens=4 * step),
        )

    @rule(which=lately, tokens=st.sampled_from([60, 60, 45]))
    def finish(self, which: int, tokens: int) -> None:
        """Told again it may say something else, as the supervisor that was thought lost."""
        job_id = self.id(which)
        made = make_finished(trained_tokens=tokens, evaluated_tokens=tokens // 3, sha256=job_id)
        self.attempt(self.registry.jobs.finish, job_id, made)

    @rule(which=lately, billable=st.booleans())
    def fail(self, which: int, billable: bool) -> None:
        self.attempt(self.registry.jobs.fail, self.id(which), JobError(code="BAD", message="bad"), billable)

    # what must hold

    def look(self) -> dict[str, list[Row]]:
        with self.store.reading() as tx:
            return {name: [dict(row) for row in tx.execute(query).mappings()] for name, query in self.looks.items()}

    @invariant()
    def all_of_it(self) -> None:
        rows = self.looked_up(self.look)
        jobs = {row["id"]: row for row in rows["jobs"]}
        self._moves(jobs)
        for job in jobs.values():
            self._is_sound(job)
        assert sum(job["status"] == JobStatus.IN_PROGRESS.value for job in jobs.values()) <= self.launcher.num_jobs
        ends = {row["job_id"]: row["count"] for row in rows["ends"]}
        assert ends == dict.fromkeys((id for id, job in jobs.items() if job["status"] not in ACTIVE), 1)
        made = [row["job_id"] for row in rows["versions"]]
        good = {id for id, job in self.known.items() if job["status"] == JobStatus.SUCCESS.value} - self.dropped
        assert sorted(made) == sorted(good)
        self._is_paid(rows)

    def _moves(self, jobs: dict[str, Row]) -> None:
        for id, job in jobs.items():
            before = self.known.get(id)
            if before and before["status"] not in ACTIVE:
                assert job == before, "an end stays"
            elif before and before["status"] != job["status"]:
                assert (JobStatus(before["status"]), JobStatus(job["status"])) in ALLOWED
        assert self.known.keys() - jobs.keys() == self.collected, "nothing else is forgotten"
        self.known |= jobs

    def _is_sound(self, job: Row) -> None:
        is_final = JobStatus(job["status"]) in FINAL
        assert (job["error"] is not None) == (job["status"] == JobStatus.ERROR.value)
        assert (job["finished_on"] is not None) == is_final
        if job["status"] == JobStatus.IN_PROGRESS.value:
            assert job["attempt"] >= 1
            assert job["lost"] < MAX_ATTEMPTS
            assert job["started_on"]

    def _is_paid(self, rows: dict[str, list[Row]]) -> None:
        (limit,) = rows["limits"]
        holds, active = rows["holds"], {row["id"] for row in rows["jobs"] if row["status"] in ACTIVE}
        assert [hold["id"] for hold in holds] == [hold["id"] for hold in holds if not hold["spent_ucr"]]
        assert {hold["id"] for hold in holds} == active
        assert limit["reserved_ucr"] == sum(hold["amount_ucr"] for hold in holds)
        assert limit["spent_ucr"] == sum(row["amount_ucr"] for row in rows["usage"])
        assert limit["spent_ucr"] + limit["reserved_ucr"] <= limit["granted_ucr"] + limit["overrun_ucr"]
        counts = ("trained_tokens", "evaluated_tokens")
        bills = {row["source_id"]: [row[name] for name in counts] for row in rows["usage"]}
        assert len(bills) == len(rows["usage"]), "each job is charged once"
        paid = {id: job for id, job in self.known.items() if job["trained_tokens"]}
        assert bills == {id: [job[name] for name in counts] for id, job in paid.items()}


def test_the_life_of_jobs(bench: Bench) -> None:
    bench.run(JobsMachine, LENGTH, WHERE_SLOW)
