"""Verbs on files. Their bytes are in storage before they are recorded here."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.batches import ACTIVE
from luthier.platform.files import StoredFile
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.paging import Page, page_rows
from luthier.platform.securables import ObjectKind
from luthier.platform.store import Store, fetch_first

MAX_SWEPT = 100
"""Of one sweep."""


class Files:
    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store, self._clock = store, clock
        self._files, self._batches, self._guard = store.table("files"), store.table("batches"), Guard(store)

    def create(self, file: StoredFile) -> StoredFile:
        """Records a file whose bytes are in place. The same id again changes nothing."""
        owner = Caller(account=file.account, user=file.owner, role=file.role)
        with self._guard.change(owner, ("file", file.id)) as tx:
            self.create_in(tx, file)
        return file

    def create_in(self, tx: sa.Connection, file: StoredFile) -> None:
        self._store.insert_missing(tx, "files", [file.model_dump(mode="json")])

    def get(self, caller: Caller, file_id: str) -> StoredFile:
        with self._store.reading() as tx:
            return self.find(tx, caller, file_id)

    def find(self, tx: sa.Connection, caller: Caller, file_id: str, to: Action = Action.READ_FILE) -> StoredFile:
        """A file, for the caller `to` do something with it."""
        query = sa.select(self._files).where(self._files.c.id == file_id, self._is_there())
        row = fetch_first(tx, query)
        if row is None:
            raise _no_file(file_id)
        file = StoredFile.from_row(row)
        self._guard.check_made(tx, caller, to, file, lambda: _no_file(file_id))
        return file

    def show(self, caller: Caller, page: Page, purpose: str | None = None) -> list[StoredFile]:
        """One more than the page's limit if there are more."""
        wanted = [self._is_there()] if purpose is None else [self._is_there(), self._files.c.purpose == purpose]
        with self._store.reading() as tx:
            his = self._guard.made(tx, caller, Action.READ_FILE, ObjectKind.FILE, self._files)
        return [StoredFile.from_row(row) for row in page_rows(self._store, self._files, his, page, *wanted)]

    def delete(self, caller: Caller, file_id: str) -> StoredFile:
        """Forgets a file and gives back what it was; the input of a batch that is not done is refused."""
        with self._guard.change(caller) as tx:
            file = self.find(tx, caller, file_id, Action.DELETE_FILE)
            user = tx.execute(sa.select(self._batches.c.id).where(self._is_input(file_id)).limit(1)).scalar()
            if user is not None:
                raise Conflict(f"File {file_id} is the input of batch {user}, which is not done. Cancel that first.")
            tx.execute(sa.delete(self._files).where(self._files.c.id == file_id))
        return file

    def expired(self) -> list[StoredFile]:
        """Some files whose time is over, for `forget`."""
        in_use = sa.exists().where(self._is_input(self._files.c.id))
        query = sa.select(self._files).where(~self._is_there(), ~in_use).limit(MAX_SWEPT)
        return [StoredFile.from_row(row) for row in self._store.rows(query)]

    def forget(self, file_ids: list[str]) -> None:
        with self._store.transaction() as tx:
            tx.execute(sa.delete(self._files).where(self._files.c.id.in_(file_ids)))

    def _is_there(self) -> sa.ColumnElement[bool]:
        ends = self._files.c.expires_on
        return sa.or_(ends.is_(None), ends > self._clock())

    def _is_input(self, file_id: Any) -> sa.ColumnElement[bool]:
        columns = self._batches.c
        return sa.and_(columns.input_file_id == file_id, columns.status.in_(ACTIVE))


def _no_file(file_id: str) -> NotFound:
    return NotFound(f"No file {file_id!r}. `luthier files list` shows those there are.")
