"""Verbs on the audit: write a row, read, and say where each account's chain ends. None changes or removes one."""

from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import Field

from luthier.platform.access import Caller
from luthier.platform.audit import Anchor, AuditRow, Entry
from luthier.platform.frozen import Frozen
from luthier.platform.privileges import Action
from luthier.platform.registry.audit_rows import AuditRows
from luthier.platform.registry.guard import Guard
from luthier.platform.securables import ACCOUNT, PLATFORM
from luthier.platform.store import Store

MAX_PAGE = 1000
NOBODY = ""
"""The account of those whose key nobody knows."""


Time = Annotated[int, Field(ge=0, le=2**62)]
Word = Annotated[str, Field(max_length=1000)]


class Search(Frozen):
    since: Time = 0
    until: Time = 2**62
    user: Word | None = None
    action: Word | None = None
    before: Annotated[int, Field(ge=1, le=2**62)] | None = None
    """Rows of smaller numbers: the next page of a list that is newest first."""
    unknown: bool = False
    """Those without a known key, instead of the account's own; for who runs the platform."""
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class Audit:
    def __init__(self, store: Store, guard: Guard) -> None:
        self._store, self._guard = store, guard
        self._entries = AuditRows(store)
        self._audit = self._entries.audit

    def append(self, entries: list[Entry]) -> int:
        """Writes what is new, each at the end of its account's chain; how many that were."""
        with self._store.transaction() as tx:
            return self._entries.add(tx, entries)

    def show(self, caller: Caller, search: Search) -> list[AuditRow]:
        """Newest first."""
        columns = self._audit.c
        with self._store.reading() as tx:
            where = [columns.account == self._chain(tx, caller, search.unknown)]
        where += [columns.time >= search.since, columns.time < search.until]
        where += [columns.user == search.user] if search.user is not None else []
        where += [columns.action == search.action] if search.action is not None else []
        where += [columns.number < search.before] if search.before is not None else []
        query = sa.select(self._audit).where(*where).order_by(columns.number.desc())
        return _rows(self._store.rows(query.limit(search.limit)))

    def page(self, caller: Caller, after: int, unknown: bool = False) -> list[AuditRow]:
        """Oldest first, from behind a number on; for a walk along the chain."""
        columns = self._audit.c
        with self._store.reading() as tx:
            chain = self._chain(tx, caller, unknown)
        query = sa.select(self._audit).where(columns.account == chain, columns.number > after)
        return _rows(self._store.rows(query.order_by(columns.number).limit(MAX_PAGE)))

    def head(self, caller: Caller, unknown: bool = False) -> Anchor:
        """Where the chain ends, by the row that is kept of it."""
        with self._store.reading() as tx:
            return self._entries.head(tx, self._chain(tx, caller, unknown))

    def _chain(self, tx: sa.Connection, caller: Caller, unknown: bool) -> str:
        action, about = (Action.OPERATE, PLATFORM) if unknown else (Action.READ_AUDIT, ACCOUNT)
        self._guard.check(tx, caller, action, about)
        return NOBODY if unknown else caller.account


def _rows(rows: list[dict[str, Any]]) -> list[AuditRow]:
    return [AuditRow(**row) for row in rows]
