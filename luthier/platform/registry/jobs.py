"""Verbs on fine-tuning jobs: submit, show, run, end. Every verb may be called twice.

A job runs under a supervisor that a Launcher starts; which jobs run is decided in `tick` alone.
"""

from collections.abc import Callable
from typing import Any, Protocol

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.jobs import ACTIVE, Event, FinishedModel, Job, JobError, JobStatus, Progress, check_move
from luthier.platform.metering import Source, training_usage
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.prices import PriceList
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.models import Models
from luthier.platform.store import Store


class Launcher(Protocol):
    """Starts and stops the supervisors of jobs."""

    def slots(self) -> int: ...
    def is_alive(self, job_id: str) -> bool: ...
    def launch(self, job_id: str) -> None: ...
    def stop(self, job_id: str) -> None: ...


class Billing:
    """What a job's trained tokens cost, by its base model's price class."""

    def __init__(self, catalog: Catalog, prices: PriceList, ledger: Ledger) -> None:
        self._catalog, self._prices, self._ledger = catalog, prices, ledger

    def charge(self, tx: sa.Connection, job: Job, trained_tokens: int, now: int) -> None:
        caller = Caller(account=job.account, user=job.owner, role=job.role)
        price_class = self._catalog.get(job.base_model).price_class
        source = Source(
            id=job.id, function="FINETUNE", base_model=job.base_model, price_class=price_class, model=job.model
        )
        self._ledger.append_in(tx, [training_usage(caller, source, self._prices, trained_tokens, now)])


class Jobs:
    def __init__(
        self,
        store: Store,
        models: Models,
        billing: Billing,
        launcher: Launcher,
        clock: Callable[[], int],
        max_attempts: int,
    ) -> None:
        self._store, self._models, self._billing = store, models, billing
        self._launcher, self._clock, self._max_attempts = launcher, clock, max_attempts
        self._jobs, self._events = store.table("jobs"), store.table("events")

    # what people ask

    def submit(self, job: Job, idempotency_key: str | None = None) -> Job:
        """Accepts a job whose data is frozen. The same id or key again gives the first answer."""
        with self._store.transaction() as tx:
            if first := self._submitted_before(tx, job, idempotency_key):
                return first
            self._check_name_free(tx, job)
            row = {**job.model_dump(mode="json"), "idempotency_key": idempotency_key}
            tx.execute(sa.insert(self._jobs).values(**row))
            self._note(
                tx, job.id, "CREATED", f"{job.report['rows']} rows, {job.report['trained_tokens']} tokens to train"
            )
        return job

    def show(self, caller: Caller, limit: int = 1000) -> list[Job]:
        """The account's jobs, newest first."""
        query = sa.select(self._jobs).where(self._jobs.c.account == caller.account)
        return [_to_job(row) for row in self._store.rows(query.order_by(self._jobs.c.created_on.desc()).limit(limit))]

    def get(self, caller: Caller, job_id: str) -> Job:
        job = self._find(job_id)
        if job.account != caller.account:
            raise _no_job(job_id)
        return job

    def events(self, caller: Caller, job_id: str) -> list[Event]:
        self.get(caller, job_id)
        query = sa.select(self._events).where(self._events.c.job_id == job_id).order_by(self._events.c.id)
        return [Event(time=row["time"], type=row["type"], message=row["message"]) for row in self._store.rows(query)]

    def cancel(self, caller: Caller, job_id: str) -> Job:
        """Ends a job and its processes. What it trained so far is billed; a finished job is refused."""
        self.get(caller, job_id)
        job = self._end(job_id, JobStatus.CANCELLED, f"Cancelled by {caller.user}", billable=True)
        self._launcher.stop(job_id)
        return job

    # what a supervisor asks

    def run(self, job_id: str) -> Job:
        """The job as its supervisor finds it."""
        return self._find(job_id)

    def report(self, job_id: str, progress: Progress) -> None:
        """Keeps the newest progress; late reports change nothing."""
        with self._store.transaction() as tx:
            job = self._find(job_id, tx)
            if job.status is JobStatus.IN_PROGRESS and progress.step >= job.progress.step:
                self._update(tx, job_id, progress=progress.model_dump())

    def note(self, job_id: str, type: str, message: str) -> None:
        with self._store.transaction() as tx:
            self._note(tx, job_id, type, message)

    def finish(self, job_id: str, made: FinishedModel) -> Job:
        """SUCCESS, the model and its bill, all or nothing."""
        with self._store.transaction() as tx:
            job = self._find(job_id, tx)
            if job.status is JobStatus.SUCCESS:
                return job
            check_move(job_id, job.status, JobStatus.SUCCESS)
            now = self._clock()
            self._models.publish(tx, job, _model_name(job), made, now)
            self._billing.charge(tx, job, made.trained_tokens, now)
            self._update(
                tx,
                job_id,
                status=JobStatus.SUCCESS.value,
                finished_on=now,
                trained_tokens=made.trained_tokens,
                training_loss=made.training_loss,
                validation_loss=made.validation_loss,
            )
            self._note(tx, job_id, "COMPLETED", f"Model {job.model} can be used")
            return self._find(job_id, tx)

    def fail(self, job_id: str, error: JobError, billable: bool) -> Job:
        """ERROR with its reason; `billable` says that the fault was not ours."""
        return self._end(job_id, JobStatus.ERROR, error.message, billable, error)

    # what decides

    def tick(self) -> None:
        """Starts what may run, and starts again, or gives up, what was lost."""
        running = self._active(JobStatus.IN_PROGRESS)
        for job in running:
            if not self._launcher.is_alive(job.id):
                self._relaunch(job)
        free = self._launcher.slots() - len(running)
        for job in self._active(JobStatus.PENDING)[: max(free, 0)]:
            self._launch(job, "STARTED", "Training starts")

    def _relaunch(self, job: Job) -> None:
        if job.attempt >= self._max_attempts:
            reason = (
                f"The run was lost {job.attempt} times: its processes ended without a word. Ray's logs may say why."
            )
            self.fail(job.id, JobError(code="RUN_LOST", message=reason), billable=False)
        else:
            self._launch(job, "RESTARTED", "The run was lost; it continues from its last checkpoint")

    def _launch(self, job: Job, type: str, message: str) -> None:
        with self._store.transaction() as tx:
            started = job.started_on or self._clock()
            values = {"status": JobStatus.IN_PROGRESS.value, "attempt": job.attempt + 1, "started_on": started}
            self._update(tx, job.id, **values)
            self._note(tx, job.id, type, message)
        self._launcher.launch(job.id)

    # rows

    def _end(self, job_id: str, to: JobStatus, message: str, billable: bool, error: JobError | None = None) -> Job:
        with self._store.transaction() as tx:
            job = self._find(job_id, tx)
            if job.status is to:
                return job
            check_move(job_id, job.status, to)
            now, tokens = self._clock(), job.progress.trained_tokens if billable else 0
            if tokens:
                self._billing.charge(tx, job, tokens, now)
            ended = {"status": to.value, "finished_on": now, "trained_tokens": tokens}
            self._update(tx, job_id, **ended, error=error.model_dump() if error else None)
            self._note(tx, job_id, "CANCELED" if to is JobStatus.CANCELLED else "FAILED", message)
            return self._find(job_id, tx)

    def _active(self, status: JobStatus) -> list[Job]:
        query = sa.select(self._jobs).where(self._jobs.c.status == status.value)
        return [_to_job(row) for row in self._store.rows(query.order_by(self._jobs.c.created_on, self._jobs.c.id))]

    def _find(self, job_id: str, tx: sa.Connection | None = None) -> Job:
        query = sa.select(self._jobs).where(self._jobs.c.id == job_id)
        found = [dict(row) for row in tx.execute(query).mappings()] if tx else self._store.rows(query)
        if not found:
            raise _no_job(job_id)
        return _to_job(found[0])

    def _submitted_before(self, tx: sa.Connection, job: Job, key: str | None) -> Job | None:
        columns = self._jobs.c
        same = columns.id == job.id
        if key is not None:
            same = sa.or_(same, sa.and_(columns.account == job.account, columns.idempotency_key == key))
        row = tx.execute(sa.select(self._jobs).where(same)).mappings().first()
        if row is None:
            return None
        first = _to_job(dict(row))
        asked = ("model", "base_model", "training_data", "validation_data", "options")
        if any(getattr(first, name) != getattr(job, name) for name in asked):
            raise Conflict(f"Idempotency-Key {key!r} was used for another request; send a new one.")
        return first

    def _check_name_free(self, tx: sa.Connection, job: Job) -> None:
        caller, name = Caller(account=job.account, user=job.owner, role=job.role), _model_name(job)
        columns = self._jobs.c
        rivals = sa.select(columns.id, columns.model).where(columns.account == job.account, columns.status.in_(ACTIVE))
        for rival_id, rival in tx.execute(rivals):
            if parse_name(rival, "", "").dotted == name.dotted:
                raise Conflict(f"Job {rival_id} is making a model {rival} already. Choose another name, or cancel it.")
        if self._models.exists(tx, caller, name):
            raise Conflict(
                f"Model {job.model} is there already. Choose another name, or drop it (luthier models drop)."
            )

    def _update(self, tx: sa.Connection, job_id: str, **values: Any) -> None:
        tx.execute(sa.update(self._jobs).where(self._jobs.c.id == job_id).values(**values))

    def _note(self, tx: sa.Connection, job_id: str, type: str, message: str) -> None:
        row = {"job_id": job_id, "time": self._clock(), "type": type, "message": message}
        tx.execute(sa.insert(self._events).values(**row))


def _model_name(job: Job) -> QualifiedName:
    return parse_name(job.model, "", "")


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"No fine-tuning job {job_id!r}. `luthier finetune show` lists those there are.")


def _to_job(row: dict[str, Any]) -> Job:
    return Job(**{name: row[name] for name in Job.model_fields})
