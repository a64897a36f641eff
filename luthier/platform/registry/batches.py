"""Verbs on batches: submit, show, cancel; and for the process that works on one: claim, report, advance.

A batch is held by a lease. When that is over another may claim it, and what the one before reports is refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform.access import Caller
from luthier.platform.batches import ACTIVE, Batch, BatchStatus, Counts, Report, Step, check_move
from luthier.platform.files import Purpose
from luthier.platform.privileges import Action
from luthier.platform.registry.files import Files
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.ledger import Ledger
from luthier.platform.registry.paging import Page, page_rows
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Store, fetch_first

LEASE_MS = 10_000
"""A batch whose process is gone is taken over so long after its last report."""
ASKED = ("owner", "role", "endpoint", "input_file_id", "metadata", "output_seconds")


class Batches:
    def __init__(self, store: Store, files: Files, ledger: Ledger, clock: Callable[[], int]) -> None:
        self._store, self._files, self._ledger, self._clock = store, files, ledger, clock
        self._batches, self._guard = store.table("batches"), Guard(store)

    # what people ask

    def submit(self, batch: Batch) -> Batch:
        """Accepts a batch over a file that was uploaded for one. The same id again gives the first answer."""
        caller = Caller(account=batch.account, user=batch.owner, role=batch.role)
        with self._guard.change(caller) as tx:
            if first := self._seek(tx, batch.id):
                if any(getattr(first, name) != getattr(batch, name) for name in ASKED):
                    raise Conflict("The Idempotency-Key was used for another batch; send a new one.")
                return first
            purpose = self._files.find(tx, caller, batch.input_file_id).purpose
            if purpose is not Purpose.BATCH:
                raise InvalidInput(f"File {batch.input_file_id} is for {purpose.value}: upload it with purpose batch.")
            self._store.insert_missing(tx, "batches", [batch.model_dump(mode="json")])
            return self._find(tx, batch.id)

    def show(self, caller: Caller, page: Page) -> list[Batch]:
        """One more than the page's limit if there are more."""
        with self._store.reading() as tx:
            his = self._guard.made(tx, caller, Action.SEE_BATCH, ObjectKind.BATCH, self._batches)
        return [Batch.from_row(row) for row in page_rows(self._store, self._batches, his, page)]

    def get(self, caller: Caller, batch_id: str, to: Action = Action.SEE_BATCH) -> Batch:
        """A batch, for the caller `to` do something with it."""
        with self._store.reading() as tx:
            batch = self._find(tx, batch_id)
            self._guard.check_made(tx, caller, to, batch, lambda: _no_batch(batch_id))
        return batch

    def cancel(self, caller: Caller, batch_id: str) -> Batch:
        """No line is begun any more; those that are being answered are finished first. A finished batch is refused."""
        self.get(caller, batch_id, Action.CANCEL_BATCH)
        with self._guard.change(caller) as tx:
            batch = self._find(tx, batch_id)
            if batch.status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
                return batch
            return self._move(tx, batch, Step(to=BatchStatus.CANCELLING))

    def ended(self, batch_ids: list[str]) -> list[str]:
        """Those of them that have come to their end."""
        columns = self._batches.c
        query = sa.select(columns.id).where(columns.id.in_(batch_ids), columns.status.not_in(ACTIVE))
        return [row["id"] for row in self._store.rows(query)]

    # what a process asks that works on batches

    def claim(self, holder: str, full: Sequence[str] = ()) -> Batch | None:
        """The oldest batch that nobody holds, of an account with the fewest that are held, and of none that is full.

        The same holder again gets the same answer: use a name once.
        """
        columns, held, now = self._batches.c, self._batches.alias().c, self._clock()
        is_held = (held.account == columns.account, held.status.in_(ACTIVE), held.lease_until > now)
        num_held = sa.select(sa.func.count()).where(*is_held).correlate(self._batches).scalar_subquery()
        mine = columns.holder == holder
        is_free = (sa.or_(columns.lease_until.is_(None), columns.lease_until <= now), columns.account.not_in(full))
        query = sa.select(self._batches).where(columns.status.in_(ACTIVE), sa.or_(mine, sa.and_(*is_free)))
        turn = query.order_by(sa.case((mine, 0), else_=1), num_held, columns.number).limit(1)
        with self._store.transaction() as tx:
            row = fetch_first(tx, turn)
            if row is None:
                return None
            if row["holder"] != holder:
                values = {"holder": holder, "attempt": row["attempt"] + 1}
                self._update(tx, row["id"], **values, lease_until=now + LEASE_MS)
            return self._find(tx, row["id"])

    def report(self, batch_id: str, holder: str, report: Report) -> Batch:
        """Bills and counts results that are on disk, and renews the lease. Conflict when another holds the batch."""
        with self._store.transaction() as tx:
            batch = self._held(tx, batch_id, holder)
            self._ledger.append_in(tx, report.usage)
            counts = batch.counts.model_copy(update={"completed": report.completed, "failed": report.failed})
            self._update(tx, batch_id, counts=counts.model_dump(), lease_until=self._clock() + LEASE_MS)
            return self._find(tx, batch_id)

    def advance(self, batch_id: str, holder: str, step: Step) -> Batch:
        """To its next status. Conflict when another holds the batch, or it may not become so."""
        with self._store.transaction() as tx:
            batch = self._held(tx, batch_id, holder)
            return batch if batch.status is step.to else self._move(tx, batch, step)

    def release(self, batch_id: str, holder: str) -> None:
        """Another may claim it at once."""
        columns = self._batches.c
        held = self._batches.update().where(columns.id == batch_id, columns.holder == holder)
        with self._store.transaction() as tx:
            tx.execute(held.values(holder=None, lease_until=None))

    # rows

    def _move(self, tx: sa.Connection, batch: Batch, step: Step) -> Batch:
        check_move(batch.id, batch.status, step.to)
        values: dict[str, Any] = {"status": step.to.value, "faults": [each.model_dump() for each in step.faults]}
        values["reached"] = {**batch.model_dump(mode="json")["reached"], step.to.value: self._clock()}
        if step.total is not None:
            values["counts"] = Counts(total=step.total).model_dump()
        for column, file in (("output_file_id", step.output), ("error_file_id", step.errors)):
            if file is not None:
                self._files.create_in(tx, file.model_copy(update={"role": batch.role}))
                values[column] = file.id
        self._update(tx, batch.id, **values)
        return self._find(tx, batch.id)

    def _held(self, tx: sa.Connection, batch_id: str, holder: str) -> Batch:
        query = sa.select(self._batches.c.holder).where(self._batches.c.id == batch_id)
        if tx.execute(query).scalar() != holder:
            raise Conflict(f"Batch {batch_id} is in the hands of another process.")
        return self._find(tx, batch_id)

    def _find(self, tx: sa.Connection, batch_id: str) -> Batch:
        if batch := self._seek(tx, batch_id):
            return batch
        raise _no_batch(batch_id)

    def _seek(self, tx: sa.Connection, batch_id: str) -> Batch | None:
        row = fetch_first(tx, sa.select(self._batches).where(self._batches.c.id == batch_id))
        return Batch.from_row(row) if row else None

    def _update(self, tx: sa.Connection, batch_id: str, **values: Any) -> None:
        tx.execute(sa.update(self._batches).where(self._batches.c.id == batch_id).values(**values))


def _no_batch(batch_id: str) -> NotFound:
    return NotFound(f"No batch {batch_id!r}. `luthier batches list` shows those there are.")
