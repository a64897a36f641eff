"""The queue as the store has it: who waits and runs, when an account was served, which reasons to wait were told."""

from typing import NamedTuple

import sqlalchemy as sa

from luthier.errors import InvalidInput
from luthier.platform.base_models import Catalog
from luthier.platform.jobs import ACTIVE, Job, JobStatus
from luthier.platform.memory import least_bytes, ways_out
from luthier.platform.options import Method
from luthier.platform.queue import Capacity, Priority, Queue, Queued
from luthier.platform.store import Store


class Need(NamedTuple):
    """What a job takes of a cluster."""

    workers: int
    memory: int
    """Bytes of each worker, at the least."""


class JobQueue:
    """Reads the few columns that matter: many jobs may wait."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store, self._catalog, self._jobs = store, catalog, store.table("jobs")

    def read(self, capacity: Capacity, now: int) -> Queue:
        columns = self._jobs.c
        query = sa.select(
            columns.id,
            columns.account,
            columns.status,
            columns.created_on,
            columns.base_model,
            columns.options["priority"].as_string().label("priority"),
            columns.options["num_workers"].as_integer().label("num_workers"),
            columns.options["method"].as_string().label("method"),
        ).where(columns.status.in_(ACTIVE))
        waiting: list[Queued] = []
        running: list[Queued] = []
        for row in self._store.rows(query):
            method = Method(row["method"] or Method.LORA)
            need = self._need(row["num_workers"], row["base_model"], method, capacity)
            job = Queued(
                id=row["id"],
                account=row["account"],
                created_on=row["created_on"],
                priority=Priority[(row["priority"] or "normal").upper()],
                workers=need.workers,
                memory=need.memory,
            )
            (waiting if row["status"] == JobStatus.PENDING.value else running).append(job)
        return Queue(waiting, running, self._served() if waiting else {}, now)

    def check_fits(self, job: Job, capacity: Capacity) -> None:
        """Refuses a job that the whole cluster is too small for, or lacks the hardware for."""
        method = job.options.method
        if method is Method.QLORA and capacity.unit == "CPU":
            raise InvalidInput("Option method = qlora: a base in 4 bits needs a GPU, and this cluster has none.")
        need = self._need_of(job, capacity)
        if not (reason := capacity.why_never(*need)):
            return
        base = self._catalog.find(job.base_model)
        if base and need.workers <= capacity.workers:
            reason = f"{reason} {ways_out(base, method, need.workers, capacity)}"
        raise InvalidInput(reason)

    def why_wait(self, job: Job, capacity: Capacity) -> str | None:
        """Why the cluster as it is could not run the job, if nothing else ran; one that lost its nodes cannot."""
        return capacity.why_wait(*self._need_of(job, capacity))

    def noted(self) -> dict[str, int]:
        """Of each waiting job the firmest reason that its events tell; 0 for none."""
        columns = self._jobs.c
        query = sa.select(columns.id, columns.waits_for).where(columns.status == JobStatus.PENDING.value)
        return {row["id"]: row["waits_for"] for row in self._store.rows(query)}

    def _need_of(self, job: Job, capacity: Capacity) -> Need:
        return self._need(job.options.num_workers, job.base_model, job.options.method, capacity)

    def _need(self, asked: int | None, base_model: str, method: Method, capacity: Capacity) -> Need:
        base = self._catalog.find(base_model)
        workers = capacity.num_workers(asked, base.train_gpus if base else 1)
        return Need(workers, least_bytes(base, method, workers, capacity.unit) if base else 0)

    def _served(self) -> dict[str, int]:
        """When a job of each account that waits last started."""
        columns, others = self._jobs.c, self._jobs.alias()
        accounts = sa.select(columns.account).where(columns.status == JobStatus.PENDING.value).distinct().subquery()
        last = sa.select(sa.func.max(others.c.started_on)).where(others.c.account == accounts.c.account)
        query = sa.select(accounts.c.account, last.scalar_subquery().label("last"))
        return {row["account"]: row["last"] for row in self._store.rows(query) if row["last"] is not None}
