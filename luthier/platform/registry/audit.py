"""Verbs on the audit: write a row, read, and say where each account's chain ends. None changes or removes one."""

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any

import sqlalchemy as sa
from pydantic import Field

from luthier.errors import NotAllowed
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.audit import START, Anchor, AuditRow, Entry, hash_row
from luthier.platform.frozen import Frozen
from luthier.platform.jobs import now_ms
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
    """Those without a known key, instead of the account's own."""
    limit: int = Field(100, ge=1, le=MAX_PAGE)


class Audit:
    def __init__(self, store: Store, clock: Callable[[], int] = now_ms) -> None:
        self._store, self._clock = store, clock
        self._audit, self._heads = store.table("audit"), store.table("audit_heads")

    def append(self, entries: list[Entry]) -> int:
        """Writes what is new, each at the end of its account's chain; how many that were."""
        with self._store.transaction() as tx:
            return self.append_in(tx, entries)

    def append_in(self, tx: sa.Connection, entries: list[Entry]) -> int:
        by_account: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_account[entry.account].append(entry)
        return sum(self._append(tx, account, some) for account, some in by_account.items())

    def show(self, caller: Caller, search: Search) -> list[AuditRow]:
        """Newest first."""
        columns = self._audit.c
        where = [columns.account == _chain(caller, search.unknown)]
        where += [columns.time >= search.since, columns.time < search.until]
        where += [columns.user == search.user] if search.user is not None else []
        where += [columns.action == search.action] if search.action is not None else []
        where += [columns.number < search.before] if search.before is not None else []
        query = sa.select(self._audit).where(*where).order_by(columns.number.desc())
        return _rows(self._store.rows(query.limit(search.limit)))

    def page(self, caller: Caller, after: int, unknown: bool = False) -> list[AuditRow]:
        """Oldest first, from behind a number on; for a walk along the chain."""
        columns = self._audit.c
        query = sa.select(self._audit).where(columns.account == _chain(caller, unknown), columns.number > after)
        return _rows(self._store.rows(query.order_by(columns.number).limit(MAX_PAGE)))

    def head(self, caller: Caller, unknown: bool = False) -> Anchor:
        """Where the chain ends, by the row that is kept of it."""
        with self._store.reading() as tx:
            return self._head(tx, _chain(caller, unknown))

    def _append(self, tx: sa.Connection, account: str, entries: list[Entry]) -> int:
        """Begins by writing, so that no other transaction reads the same end of the chain."""
        columns, ids = self._audit.c, [entry.id for entry in entries]
        self._store.insert_missing(tx, "audit_heads", [{"account": account, "count": 0, "hash": START}])
        head = self._head(tx, account)
        known = set(tx.execute(sa.select(columns.id).where(columns.id.in_(ids))).scalars())
        count, last, rows = head.count, head.hash, []
        for entry in {entry.id: entry for entry in entries if entry.id not in known}.values():
            count, last = count + 1, hash_row(last, count + 1, entry)
            rows.append({**entry.model_dump(), "number": count, "hash": last})
        if rows:
            tx.execute(sa.insert(self._audit), rows)
            self._keep_head(tx, account, Anchor(count=count, hash=last))
        return len(rows)

    def _head(self, tx: sa.Connection, account: str) -> Anchor:
        query = sa.select(self._heads).where(self._heads.c.account == account).with_for_update()
        row = tx.execute(query).mappings().first()
        return Anchor(count=row["count"], hash=row["hash"]) if row else Anchor(count=0, hash=START)

    def _keep_head(self, tx: sa.Connection, account: str, head: Anchor) -> None:
        tx.execute(sa.update(self._heads).where(self._heads.c.account == account).values(**head.model_dump()))


def _chain(caller: Caller, unknown: bool) -> str:
    if caller.role != ADMIN_ROLE:
        raise NotAllowed(f"The audit is for {ADMIN_ROLE}; your role is {caller.role}.")
    return NOBODY if unknown else caller.account


def _rows(rows: list[dict[str, Any]]) -> list[AuditRow]:
    return [AuditRow(**row) for row in rows]
