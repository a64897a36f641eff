"""Verbs on fine-tuning jobs: submit, show, run, end. Every verb may be called twice.

A job runs under a supervisor that a Launcher starts; which jobs run is decided in `tick` alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound, PaymentRequired
from luthier.platform.access import Caller, own_request
from luthier.platform.jobs import (
    ATTEMPT_BEGINS,
    Event,
    EventType,
    FinishedModel,
    Job,
    JobCensus,
    JobError,
    JobNews,
    JobStatus,
    Progress,
    check_move,
    is_job_id,
    shortened_words,
)
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.options import Method
from luthier.platform.privileges import Action
from luthier.platform.queue import Capacity, Limits, Queued, Room, next_jobs, positions
from luthier.platform.registry.billing import Billing, owner_of
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.models import Models
from luthier.platform.registry.notices import Notices
from luthier.platform.registry.paging import firsts
from luthier.platform.registry.waiting import JobQueue
from luthier.platform.securables import ObjectKind
from luthier.platform.settings import Settings
from luthier.platform.store import Store, fetch, fetch_first
from luthier.platform.webhooks import NoticeType

NUM_SPEEDS = 5
MAX_SHOWN = 1_000
"""Jobs of one answer."""


class Launcher(Protocol):
    """Starts and stops the supervisors of jobs."""

    def capacity(self) -> Capacity: ...
    def is_alive(self, job_id: str) -> bool: ...
    def launch(self, job_id: str, capacity: Capacity) -> None: ...
    def stop(self, job_id: str) -> None: ...


class Jobs:
    def __init__(
        self,
        store: Store,
        models: Models,
        billing: Billing,
        launcher: Launcher,
        clock: Callable[[], int],
        settings: Settings,
    ) -> None:
        self._store, self._models, self._billing = store, models, billing
        self._launcher, self._clock, self._settings = launcher, clock, settings
        self._queue, self._guard = JobQueue(store, billing.catalog), Guard(store)
        self._notices = Notices(store, clock)
        self._jobs, self._events, self._counts = map(store.table, ("jobs", "events", "job_counts"))

    # what people ask

    def submit(self, job: Job, idempotency_key: str | None = None) -> Job:
        """Accepts a job whose data is frozen, and holds its price. The same id or key again gives the first answer."""
        try:
            return self._submit(job, idempotency_key)
        except PaymentRequired:  # its transaction is undone: what it noticed is kept by another
            with self._store.transaction() as tx:
                self._billing.tell_refused(tx, job)
            raise

    def _submit(self, job: Job, idempotency_key: str | None) -> Job:
        if first := self.precheck(job, idempotency_key):
            return first
        with self._guard.change(owner_of(job), ("job", job.id)) as tx:
            row = {**job.model_dump(mode="json"), "idempotency_key": _own(job, idempotency_key)}
            row["model_name"] = _model_name(job).dotted
            self._billing.hold(tx, job)
            self._pay_for_start(tx, job)
            tx.execute(sa.insert(self._jobs).values(**row))
            self._note(tx, job.id, EventType.CREATED, f"Model {job.model} on {job.base_model}")
            counted = f"{job.report['rows']} rows, {job.report['trained_tokens']} tokens to train"
            self._note(tx, job.id, EventType.CHECK_PASSED, counted)
            if job.report.get("is_shortened"):
                words = shortened_words(job.report["trained_tokens"])
                self._note_new(tx, job, [Event(time=self._clock(), type=EventType.SHORTENED, message=words)])
        return job

    def _pay_for_start(self, tx: sa.Connection, job: Job) -> None:
        """A job that our fault ended costs nothing, until another goes on from its checkpoint; then it does once."""
        start_id = job.options.continue_from
        if start_id is None or not is_job_id(start_id):
            return
        start = self._find(start_id, tx)
        done = start.progress
        if start.status is JobStatus.ERROR and not start.trained_tokens and done.trained_tokens:
            self._billing.charge_late(tx, start, owner_of(job), self._clock())
            billed = {"trained_tokens": done.trained_tokens, "evaluated_tokens": done.evaluated_tokens}
            self._update(tx, start.id, **billed)
            self._note(tx, start.id, EventType.BILLED, f"{done.trained_tokens} tokens, as job {job.id} goes on from it")

    def precheck(self, job: Job, idempotency_key: str | None = None) -> Job | None:
        """What `submit` would say whatever the data: the first answer to this key, a refusal, or None to go on."""
        with self._store.reading() as tx:
            return self._first_answer(tx, job, idempotency_key)

    def positions(self, caller: Caller) -> dict[str, int]:
        """Of the account's waiting jobs, their places among each other, in the order in which they start: from 1."""
        queue = self._queue.read(self._launcher.capacity(), self._clock())
        own = {job.id for job in queue.waiting if job.account == caller.account}
        return {job_id: place for place, job_id in enumerate((each for each in positions(queue) if each in own), 1)}

    def show(self, caller: Caller, limit: int = MAX_SHOWN, before: str | None = None) -> list[Job]:
        """The jobs of the caller's roles, newest first; with `before` those older than a job."""
        columns, limit = self._jobs.c, min(limit, MAX_SHOWN)
        at = (columns.created_on, columns.id)
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.CALL_FINETUNE)
            parts = self._guard.made_by_role(tx, caller, Action.SEE_JOB, ObjectKind.JOB, self._jobs)
            if before is not None:
                last = self.get(caller, before)
                parts = [sa.and_(part, sa.tuple_(*at) < sa.tuple_(last.created_on, last.id)) for part in parts]
            return [Job.from_row(row) for row in firsts(tx, self._jobs, parts, [each.desc() for each in at], limit)]

    def get(self, caller: Caller, job_id: str, to: Action = Action.SEE_JOB) -> Job:
        """A job, for the caller `to` do something with it."""
        with self._store.reading() as tx:
            job = self._find(job_id, tx)
            self._guard.check_made(tx, caller, to, job, lambda: _no_job(job_id))
        return job

    def news(self, caller: Caller, job_id: str, after: int = 0) -> JobNews:
        """The job and its events after the one with an id, oldest first, in one call for whoever follows it.

        Each job's are numbered from 1 on.
        """
        job = self.get(caller, job_id)
        query = sa.select(self._events).where(self._events.c.job_id == job_id).order_by(self._events.c.id)
        rows = self._store.rows(query.offset(after))
        events = [Event.from_row({**row, "id": number}) for number, row in enumerate(rows, after + 1)]
        return JobNews(job=job, events=events)

    def census(self, caller: Caller) -> JobCensus:
        """Counts of jobs, and running jobs, of the caller's roles."""
        columns, seen = self._counts.c, (Action.SEE_JOB, ObjectKind.JOB)
        with self._store.reading() as tx:
            sums = sa.select(columns.status, sa.func.sum(columns.count)).group_by(columns.status)
            counted = tx.execute(sums.where(self._guard.made(tx, caller, *seen, self._counts)))
            found = {status: int(count) for status, count in counted}
            his = self._guard.made(tx, caller, *seen, self._jobs)
        running = self._running(his)
        return JobCensus(counts={status: found.get(status.value, 0) for status in JobStatus}, running=running)

    def cancel(self, caller: Caller, job_id: str) -> Job:
        """Ends a job and its processes. What it trained so far is billed; a finished job is refused."""
        self.get(caller, job_id, Action.CANCEL_JOB)
        with self._guard.change(caller) as tx:
            job = self._end(tx, job_id, JobStatus.CANCELLED, f"Cancelled by {caller.user}", billable=True)
        self._launcher.stop(job_id)
        return job

    def speeds(self, base_model: str, method: Method) -> list[float]:
        """Tokens a second of the last runs on a base model that succeeded here, whoever's they were."""
        columns = self._jobs.c
        same = sa.func.coalesce(columns.options["method"].as_string(), Method.LORA.value) == method.value
        query = sa.select(columns.progress).where(
            columns.base_model == base_model, columns.status == JobStatus.SUCCESS.value, same
        )
        rows = self._store.rows(query.order_by(columns.finished_on.desc()).limit(NUM_SPEEDS))
        found = [row["progress"]["tokens_per_second"] for row in rows]
        return [speed for speed in found if speed]

    # what a supervisor asks

    def run(self, job_id: str) -> Job:
        """The job as its supervisor finds it."""
        return self._find(job_id)

    def report(self, job_id: str, progress: Progress | None, events: Sequence[Event] = ()) -> None:
        """Keeps the newest progress and new events; late reports change nothing."""
        with self._store.transaction() as tx:
            job = self._find(job_id, tx)
            if job.status is not JobStatus.IN_PROGRESS:
                return
            if progress and progress.step >= job.progress.step:
                lost = 0 if progress.step > job.progress.step else job.lost
                self._update(tx, job_id, progress=progress.model_dump(), lost=lost)
            self._note_new(tx, job, events)

    def note(self, job_id: str, type: EventType, message: str) -> None:
        """An event of a run; told twice in one attempt it stands once."""
        self.report(job_id, None, [Event(time=self._clock(), type=type, message=message)])

    def finish(self, job_id: str, made: FinishedModel) -> Job:
        """SUCCESS, the model and its bill, all or nothing."""
        with self._store.transaction() as tx:
            job = self._find(job_id, tx)
            if job.status is JobStatus.SUCCESS:
                return job
            check_move(job_id, job.status, JobStatus.SUCCESS)
            now = self._clock()
            version = self._models.publish(tx, job, _model_name(job), made, now)
            self._billing.charge(tx, job, (made.trained_tokens, made.evaluated_tokens), now)
            self._billing.release(tx, job)
            self._update(
                tx,
                job_id,
                status=JobStatus.SUCCESS.value,
                finished_on=now,
                trained_tokens=made.trained_tokens,
                evaluated_tokens=made.evaluated_tokens,
                training_loss=made.training_loss,
                validation_loss=made.validation_loss,
            )
            self._note(tx, job_id, EventType.COMPLETED, f"Model {job.model}, version {version}, can be used")
            return self._find(job_id, tx)

    def fail(self, job_id: str, error: JobError, billable: bool) -> Job:
        """ERROR with its reason; `billable` says that the fault was not ours."""
        with self._store.transaction() as tx:
            return self._end(tx, job_id, JobStatus.ERROR, error.message, billable, error)

    # what decides

    def tick(self) -> None:
        """Starts what may run, and starts again, or gives up, what was lost."""
        capacity = self._launcher.capacity()
        for job in self._running():
            if not self._launcher.is_alive(job.id):
                self._go_on(job, capacity)
        queue = self._queue.read(capacity, self._clock())
        started, room = next_jobs(queue, Limits(capacity, self._settings.max_running_jobs_per_account))
        for each in started:
            self._launch(self._find(each.id), capacity, EventType.STARTED, "The run's processes start")
        self._note_waits(set(queue.waiting) - set(started), room)

    def _go_on(self, job: Job, capacity: Capacity) -> None:
        """Starts a lost run again, or gives it up; one that the cluster has become too small for waits."""
        if reason := self._queue.why_wait(job, capacity):
            self.note(job.id, EventType.WAITING, reason)
        elif job.lost + 1 >= self._settings.max_attempts:
            reason = f"The run was lost {job.lost + 1} times and came no further. Its events and logs may say why."
            self.fail(job.id, JobError(code="RUN_LOST", message=reason), billable=False)
        else:
            with self._store.transaction() as tx:
                self._update(tx, job.id, lost=job.lost + 1)
            self._launch(job, capacity, EventType.REQUEUED, "The run was lost; it continues from its last checkpoint")

    def _launch(self, job: Job, capacity: Capacity, type: EventType, message: str) -> None:
        with self._store.transaction() as tx:
            started = job.started_on or self._clock()
            values = {"status": JobStatus.IN_PROGRESS.value, "attempt": job.attempt + 1, "started_on": started}
            self._update(tx, job.id, **values)
            self._note(tx, job.id, type, message)
        self._launcher.launch(job.id, capacity)

    def _note_waits(self, waiting: Iterable[Queued], room: Room) -> None:
        """One event for each reason, and none for a weaker one after a firmer."""
        noted = self._queue.noted()
        with self._store.transaction() as tx:
            for job in waiting:
                wait = room.why_not(job)
                if wait is not None and wait > noted[job.id]:
                    self._update(tx, job.id, waits_for=wait.value)
                    self._note(tx, job.id, EventType.WAITING, room.reason(job))

    # rows

    def _first_answer(self, tx: sa.Connection, job: Job, key: str | None) -> Job | None:
        if first := self._submitted_before(tx, job, key):
            return first
        self._models.check_tunes(tx, owner_of(job), _model_name(job), job.options.new_version)
        self._queue.check_fits(job, self._launcher.capacity())
        return None

    def _end(
        self, tx: sa.Connection, job_id: str, to: JobStatus, message: str, billable: bool, error: JobError | None = None
    ) -> Job:
        job = self._find(job_id, tx)
        if job.status is to:
            return job
        check_move(job_id, job.status, to)
        now, done = self._clock(), job.progress
        trained, evaluated = (done.trained_tokens, done.evaluated_tokens) if billable else (0, 0)
        if trained:
            self._billing.charge(tx, job, (trained, evaluated), now)
        self._billing.release(tx, job)
        ended = {"status": to.value, "finished_on": now, "trained_tokens": trained, "evaluated_tokens": evaluated}
        self._update(tx, job_id, **ended, error=error.model_dump() if error else None)
        self._note(tx, job_id, EventType.CANCELED if to is JobStatus.CANCELLED else EventType.FAILED, message)
        return self._find(job_id, tx)

    def _running(self, *where: sa.ColumnElement[bool]) -> list[Job]:
        query = sa.select(self._jobs).where(self._jobs.c.status == JobStatus.IN_PROGRESS.value, *where)
        return [Job.from_row(row) for row in self._store.rows(query.order_by(self._jobs.c.created_on, self._jobs.c.id))]

    def _find(self, job_id: str, tx: sa.Connection | None = None) -> Job:
        query = sa.select(self._jobs).where(self._jobs.c.id == job_id)
        found = fetch(tx, query) if tx else self._store.rows(query)
        if not found:
            raise _no_job(job_id)
        return Job.from_row(found[0])

    def _submitted_before(self, tx: sa.Connection, job: Job, key: str | None) -> Job | None:
        columns = self._jobs.c
        same = columns.id == job.id
        if key is not None:
            same = sa.or_(same, sa.and_(columns.account == job.account, columns.idempotency_key == _own(job, key)))
        row = fetch_first(tx, sa.select(self._jobs).where(same))
        if row is None:
            return None
        first = Job.from_row(row)
        asked = ("owner", "role", "model", "base_model", "training_data", "validation_data", "options")
        if any(getattr(first, name) != getattr(job, name) for name in asked):
            raise Conflict(f"Idempotency-Key {key!r} was used for another request; send a new one.")
        return first

    def _update(self, tx: sa.Connection, job_id: str, **values: Any) -> None:
        tx.execute(sa.update(self._jobs).where(self._jobs.c.id == job_id).values(**values))

    def _note(self, tx: sa.Connection, job_id: str, type: EventType, message: str) -> None:
        self._add_events(tx, job_id, [Event(time=self._clock(), type=type, message=message)])

    def _note_new(self, tx: sa.Connection, job: Job, events: Iterable[Event]) -> None:
        """Without those that the attempt has noted already, as a resumed run tells them again."""
        told = {(event.type, event.message): event for event in reversed(list(events))}
        if not told:
            return
        columns = self._events.c
        begins = sa.select(sa.func.max(columns.id)).where(columns.job_id == job.id, columns.type.in_(ATTEMPT_BEGINS))
        is_of_attempt = columns.id >= sa.func.coalesce(begins.scalar_subquery(), 0)
        noted = sa.select(columns.type, columns.message).where(
            columns.job_id == job.id,
            sa.or_(is_of_attempt, columns.type == EventType.SHORTENED.value),  # CREATE may have told it
            columns.message.in_({message for _, message in told}),
        )
        for type, message in tx.execute(noted):
            told.pop((type, message), None)
        self._add_events(tx, job.id, reversed(told.values()))
        if any(type == EventType.SHORTENED for type, _ in told):
            about = {"kind": "job", "name": job.id, "model": job.model, "granted": job.options.budget_credits}
            self._notices.tell(tx, NoticeType.BUDGET_SHORTENED, job.account, (job.id,), **about)

    def _add_events(self, tx: sa.Connection, job_id: str, events: Iterable[Event]) -> None:
        rows = [{"job_id": job_id, **event.model_dump(exclude={"id"})} for event in events]
        if rows:
            tx.execute(sa.insert(self._events), rows)


def _own(job: Job, key: str | None) -> str | None:
    return None if key is None else own_request(owner_of(job), key)


def _model_name(job: Job) -> QualifiedName:
    return parse_name(job.model, "", "")


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"No fine-tuning job {job_id!r}. `luthier finetune show` lists those there are.")
