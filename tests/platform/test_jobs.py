"""Jobs: the table of moves, and the registry's verbs in any order."""

import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from luthier.errors import Conflict, NotFound
from luthier.platform.base_models import BaseModel, Catalog
from luthier.platform.jobs import MOVES, Job, JobError, JobStatus, Progress, check_move, new_job_id
from luthier.platform.metering import UsageKind
from luthier.platform.names import parse_name
from luthier.platform.prices import load_prices
from luthier.platform.registry.accounts import open_account
from luthier.platform.registry.jobs import Billing, Jobs
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.models import Models
from luthier.platform.securables import HOME
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.store import Store
from tests.factories import ADMIN, BASE_MODEL, make_finished, make_job, make_progress
from tests.fakes import Launcher

FINAL = {JobStatus.SUCCESS, JobStatus.ERROR, JobStatus.CANCELLED}
ALLOWED = {
    (JobStatus.PENDING, JobStatus.IN_PROGRESS),
    (JobStatus.PENDING, JobStatus.ERROR),
    (JobStatus.PENDING, JobStatus.CANCELLED),
    (JobStatus.IN_PROGRESS, JobStatus.SUCCESS),
    (JobStatus.IN_PROGRESS, JobStatus.ERROR),
    (JobStatus.IN_PROGRESS, JobStatus.CANCELLED),
}
MAX_ATTEMPTS = 2
job_ids = st.sampled_from([f"ft_{number}" for number in range(4)])


@pytest.mark.parametrize("to", JobStatus)
@pytest.mark.parametrize("now", JobStatus)
def test_moves(now: JobStatus, to: JobStatus) -> None:
    if (now, to) in ALLOWED:
        check_move("ft_1", now, to)
    else:
        with pytest.raises(Conflict, match=f"ft_1 is {now} and cannot become {to}"):
            check_move("ft_1", now, to)


def test_final_states_have_no_way_out() -> None:
    assert {status for status in JobStatus if status.is_final} == FINAL
    assert FINAL.isdisjoint(MOVES)


def test_ids_are_uuids() -> None:
    assert len(new_job_id()) == len("ft_") + 36
    assert new_job_id() != new_job_id()


@pytest.mark.parametrize(("step", "total", "share"), [(0, 0, 0.0), (1, 3, 0.3333), (4, 4, 1.0)])
def test_progress_is_a_share(step: int, total: int, share: float) -> None:
    assert Progress(step=step, total_steps=total).share == share


class JobsMachine(RuleBasedStateMachine):
    """Every verb at any time, on jobs that are there or not, over a launcher that loses supervisors."""

    def __init__(self) -> None:
        super().__init__()
        store = Store("sqlite:///:memory:")
        with store.transaction() as tx:
            open_account(store, tx, ADMIN.account, HOME, 0)
        self.launcher = Launcher(num_jobs=1)
        self.ledger, self.models = Ledger(store), Models(store)
        base = BaseModel.model_validate(tomllib.loads(BASE_MODEL.format(path="x")))
        billing = Billing(Catalog({"tiny": base}), load_prices(configs_dir() / "prices.toml"), self.ledger)
        self.jobs = Jobs(store, self.models, billing, self.launcher, lambda: 5_000, Settings(max_attempts=MAX_ATTEMPTS))
        self.ended: dict[str, Job] = {}

    def attempt(self, verb: Any, *args: Any) -> None:
        """A verb may refuse; what it may never do is break a rule below."""
        with suppress(Conflict, NotFound):
            verb(*args)

    @initialize(is_running=st.booleans())
    def two_jobs_wait(self, is_running: bool) -> None:
        """Most runs would else spend their steps on jobs that are not there."""
        for number in range(2):
            self.jobs.submit(make_job(f"ft_{number}", f"LUTHIER.PUBLIC.M{number}"))
        if is_running:
            self.jobs.tick()

    @rule(
        job_id=job_ids, name=st.sampled_from(["M0", "m0", '"M0"', "M1", "M2"]), key=st.sampled_from([None, None, "k1"])
    )
    def submit(self, job_id: str, name: str, key: str | None) -> None:
        self.attempt(self.jobs.submit, make_job(job_id, f"LUTHIER.PUBLIC.{name}"), key)

    @rule()
    def tick(self) -> None:
        self.jobs.tick()

    @rule(is_noticed=st.booleans())
    def lose(self, is_noticed: bool) -> None:
        self.launcher.alive.clear()
        if is_noticed:
            self.jobs.tick()

    @rule(job_id=job_ids, step=st.integers(0, 4))
    def report(self, job_id: str, step: int) -> None:
        self.attempt(self.jobs.report, job_id, make_progress(step, trained_tokens=15 * step))

    @rule(job_id=job_ids)
    def finish(self, job_id: str) -> None:
        self.attempt(self.jobs.finish, job_id, make_finished())

    @rule(job_id=job_ids, billable=st.booleans())
    def fail(self, job_id: str, billable: bool) -> None:
        self.attempt(self.jobs.fail, job_id, JobError(code="BAD", message="bad"), billable)

    @rule(job_id=job_ids)
    def cancel(self, job_id: str) -> None:
        self.attempt(self.jobs.cancel, ADMIN, job_id)

    @rule(job_id=job_ids)
    def drop(self, job_id: str) -> None:
        for version in self.models.show(ADMIN):
            if version.job_id == job_id:
                self.models.drop(ADMIN, parse_name(version.model, "", ""))

    @invariant()
    def names_are_made_once(self) -> None:
        active = [job.model for job in self.jobs.show(ADMIN) if not job.status.is_final]
        names = [parse_name(name, "", "") for name in (*active, *(each.model for each in self.models.show(ADMIN)))]
        assert len(names) == len(set(names))

    @invariant()
    def final_states_stay(self) -> None:
        for job in self.jobs.show(ADMIN):
            assert self.ended.setdefault(job.id, job) == job or not self.ended[job.id].status.is_final
            self.ended[job.id] = job

    @invariant()
    def bills_are_those_of_the_jobs(self) -> None:
        bills = {record.source_id: record for record in self.ledger.records(ADMIN, UsageKind.TRAINING)}
        jobs = {job.id: job for job in self.jobs.show(ADMIN)}
        assert set(bills) == {job.id for job in jobs.values() if job.trained_tokens}
        for job_id, bill in bills.items():
            assert jobs[job_id].status.is_final
            assert bill.trained_tokens == jobs[job_id].trained_tokens
        assert all(job.trained_tokens == 60 for job in jobs.values() if job.status is JobStatus.SUCCESS)

    @invariant()
    def no_more_run_than_there_is_room_for(self) -> None:
        running = [job for job in self.jobs.show(ADMIN) if job.status is JobStatus.IN_PROGRESS]
        assert len(running) <= self.launcher.num_jobs
        assert all(job.attempt >= 1 and job.lost < MAX_ATTEMPTS and job.started_on for job in running)

    @invariant()
    def every_model_has_its_job(self) -> None:
        made = {job.id for job in self.jobs.show(ADMIN) if job.status is JobStatus.SUCCESS}
        assert {version.job_id for version in self.models.show(ADMIN)} <= made

    @invariant()
    def errors_have_reasons_and_ends_have_times(self) -> None:
        for job in self.jobs.show(ADMIN):
            assert (job.error is not None) == (job.status is JobStatus.ERROR)
            assert (job.finished_on is not None) == job.status.is_final


TestJobsMachine = JobsMachine.TestCase
TestJobsMachine.settings = hypothesis_settings(max_examples=25, stateful_step_count=20, deadline=None)
