"""Verbs on tables of training data."""

from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.models import TableInfo
from luthier.platform.names import QualifiedName
from luthier.platform.registry.objects import is_named, object_row
from luthier.platform.store import Store


class Tables:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables = store.table("tables")

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
        with self._store.transaction() as tx:
            old = tx.execute(sa.select(self._tables).where(is_named(self._tables, caller, name))).mappings().first()
            if old and old["path"] != info.path and not replace:
                raise Conflict(f"Table {name.display} is there already. Drop it first, or replace it (--replace).")
            if old:
                tx.execute(sa.delete(self._tables).where(self._tables.c.id == old["id"]))
            tx.execute(sa.insert(self._tables).values(**row))
        return _to_table(dict(old)) if old and old["path"] != info.path else None

    def show(self, caller: Caller) -> list[TableInfo]:
        query = sa.select(self._tables).where(self._tables.c.account == caller.account)
        return [_to_table(row) for row in self._store.rows(query.order_by(self._tables.c.display))]

    def drop(self, caller: Caller, name: QualifiedName) -> TableInfo:
        """Forgets the table and gives back what it was; jobs made from it keep their own snapshot."""
        with self._store.transaction() as tx:
            row = tx.execute(sa.select(self._tables).where(is_named(self._tables, caller, name))).mappings().first()
            if row is None:
                raise NotFound(f"No table {name.display}. `luthier tables list` shows those there are.")
            tx.execute(sa.delete(self._tables).where(self._tables.c.id == row["id"]))
        return _to_table(dict(row))


def _to_table(row: dict[str, Any]) -> TableInfo:
    kept = {key: row[key] for key in ("owner", "path", "num_rows", "columns", "created_on")}
    return TableInfo(name=row["display"], **kept)
