"""Verbs on tables of training data."""

from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from luthier.errors import Conflict
from luthier.platform.access import Caller
from luthier.platform.models import TableInfo
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.privileges import Action
from luthier.platform.registry.grant_rows import GrantRows
from luthier.platform.registry.guard import Guard, in_schema, securable
from luthier.platform.registry.objects import (
    check_no_other,
    is_named,
    lies_in,
    named_rows,
    no_table,
    object_row,
    seen_rows,
)
from luthier.platform.registry.paging import MAX_SHOWN, all_pages
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.registry.share_rows import ShareRows
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.store import Row, Store, fetch_first


class Gone(NamedTuple):
    """A table that was dropped with what it lay in."""

    name: str
    path: str


class Tables:
    def __init__(self, store: Store, guard: Guard) -> None:
        self._store, self._guard = store, guard
        self._tables, self._views = store.table("tables"), store.table("views")
        self._grants, self._places, self._shares = GrantRows(store), PlaceRows(store), ShareRows(store)

    def precheck(self, caller: Caller, name: QualifiedName) -> None:
        """NotAllowed before a file comes that could not be kept."""
        with self._store.reading() as tx:
            self._check_place(tx, caller, name)

    def create(self, caller: Caller, name: QualifiedName, info: TableInfo, replace: bool = False) -> TableInfo | None:
        """Records a table whose file is in place, and gives back the one that it replaced.

        The same path again changes nothing.
        """
        row = {
            **object_row(caller, name, info.created_on),
            "path": info.path,
            "num_rows": info.num_rows,
            "columns": info.columns,
        }
        with self._guard.change(caller) as tx:
            self._check_place(tx, caller, name)
            old = fetch_first(tx, sa.select(self._tables).where(is_named(self._tables, caller, name)))
            if old and old["path"] == info.path:
                return None
            if old and not replace:
                raise Conflict(f"Table {name.display} is there already. Drop it first, or replace it (--replace).")
            if old:
                self._drop(tx, caller, name, old)
            tx.execute(sa.insert(self._tables).values(**row))
            self._grants.begin(tx, caller, Securable.named(ObjectKind.TABLE, name), info.created_on)
        return to_table(old) if old else None

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None) -> list[TableInfo]:
        """Those that the caller may read, by their folded names."""
        behind = parse_name(after, "", "") if after is not None else None
        with self._store.reading() as tx:
            read = partial(named_rows, self._tables, tx, caller)
            allowed = partial(self._guard.allowed, tx, caller, Action.READ_TABLE, ObjectKind.TABLE)
            rows = seen_rows(read, allowed, behind, min(limit, MAX_SHOWN))
        return [to_table(row) for row in rows]

    def drop(self, caller: Caller, name: QualifiedName) -> TableInfo:
        """Forgets the table and gives back what it was; jobs made from it keep their own snapshot."""
        with self._guard.change(caller) as tx:
            row = fetch_first(tx, sa.select(self._tables).where(is_named(self._tables, caller, name)))
            if row is None:
                raise no_table(name)
            return self._drop(tx, caller, name, row)

    def remove(self, tx: sa.Connection, caller: Caller, place: Securable) -> list[Gone]:
        """All that lie there, whoever asks, and what is granted on them: that is decided by then."""
        columns, is_there = self._tables.c, lies_in(self._tables, caller.account, place)
        gone = sa.delete(self._tables).where(is_there).returning(columns.display, columns.path)
        return [Gone(*row) for row in tx.execute(gone)]

    def _drop(self, tx: sa.Connection, caller: Caller, name: QualifiedName, row: Row) -> TableInfo:
        table = securable(ObjectKind.TABLE, row)
        self._guard.check(tx, caller, Action.DROP_TABLE, table, lambda: no_table(name))
        self._grants.end(tx, caller.account, table)
        tx.execute(sa.delete(self._tables).where(self._tables.c.id == row["id"]))
        return to_table(row)

    def _check_place(self, tx: sa.Connection, caller: Caller, name: QualifiedName) -> None:
        self._guard.check(tx, caller, Action.CREATE_TABLE, in_schema(name))
        self._shares.check_own(tx, caller.account, name.database)
        self._places.check_there(tx, caller.account, in_schema(name))
        check_no_other(tx, self._views, ObjectKind.VIEW, caller, name)


def all_tables(tables: Tables, caller: Caller) -> list[TableInfo]:
    """All that the caller may read."""
    return all_pages(partial(tables.show, caller), lambda table: table.name)


def to_table(row: Row) -> TableInfo:
    kept = {key: row[key] for key in ("owner", "path", "num_rows", "columns", "created_on")}
    return TableInfo(name=row["display"], **kept)
