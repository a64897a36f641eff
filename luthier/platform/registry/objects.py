"""What tables, views and models share: a row in account > database > schema, found by its folded name."""

from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, ModelNotFound, NotFound
from luthier.platform.access import Caller
from luthier.platform.names import QualifiedName
from luthier.platform.securables import ObjectKind, Securable
from luthier.platform.store import Row, exists, fetch

NAME_PARTS = ("database", "schema", "name")
MIN_READ = 20
"""Candidates of one query: not all of them may be seen."""


def object_row(caller: Caller, name: QualifiedName, created_on: int) -> dict[str, Any]:
    return {
        "account": caller.account,
        "database": name.database,
        "schema": name.schema,
        "name": name.name,
        "display": name.display,
        "owner": caller.user,
        "role": caller.role,
        "created_on": created_on,
    }


def is_named(table: sa.Table, caller: Caller, name: QualifiedName) -> sa.ColumnElement[bool]:
    columns = table.c
    return sa.and_(
        columns.account == caller.account,
        columns.database == name.database,
        columns.schema == name.schema,
        columns.name == name.name,
    )


def name_parts(table: sa.Table) -> list[sa.ColumnElement[Any]]:
    return [table.c[part] for part in NAME_PARTS]


def is_behind(parts: Sequence[sa.ColumnElement[Any]], after: QualifiedName | None) -> sa.ColumnElement[bool]:
    """In the order of names."""
    return sa.tuple_(*parts) > sa.tuple_(*after.parts) if after else sa.true()


def named(row: Row) -> QualifiedName:
    return QualifiedName(*(row[part] for part in NAME_PARTS))


def named_rows(
    table: sa.Table, tx: sa.Connection, caller: Caller, after: QualifiedName | None, limit: int
) -> list[Row]:
    """The account's behind a name, in the order of names, whoever may see them."""
    parts = name_parts(table)
    query = sa.select(table).where(table.c.account == caller.account, is_behind(parts, after))
    return fetch(tx, query.order_by(*parts).limit(limit))


def seen_rows(
    read: Callable[[QualifiedName | None, int], list[Row]],
    seen: Callable[[list[Row]], list[Row]],
    after: QualifiedName | None,
    limit: int,
) -> list[Row]:
    """So many of those that the caller may see: candidates are read, from behind a name, until there are."""
    found: list[Row] = []
    while len(found) < limit:
        num = max(limit - len(found), MIN_READ)
        rows = read(after, num)
        found += seen(rows)
        if len(rows) < num:
            break
        after = named(rows[-1])
    return found[:limit]


def lies_in(table: sa.Table, account: str, place: Securable) -> sa.ColumnElement[bool]:
    """In a database, or in a schema."""
    schema = [table.c.schema == place.schema] if place.schema else []
    return sa.and_(table.c.account == account, table.c.database == place.database, *schema)


def check_no_other(tx: sa.Connection, others: sa.Table, kind: ObjectKind, caller: Caller, name: QualifiedName) -> None:
    """Conflict when the name is one of the other kind's: a schema's tables and views share their names."""
    if exists(tx, is_named(others, caller, name)):
        raise Conflict(f"Object '{name.dotted}' already exists as {kind}. Choose another name, or drop it first.")


def no_model(name: QualifiedName) -> ModelNotFound:
    """The one answer for a model that is not there, and for one that the caller may not see."""
    return ModelNotFound(f"No model {name.display}. `luthier models list` shows those there are.")


def no_table(name: QualifiedName) -> NotFound:
    return NotFound(f"No table {name.display}. `luthier tables list` shows those there are.")


def no_view(name: QualifiedName) -> NotFound:
    return NotFound(f"No view {name.display}. `luthier views list` shows those there are.")
