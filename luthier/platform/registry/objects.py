"""What tables and models share: a row in account > database > schema, found by its folded name."""

from typing import Any

import sqlalchemy as sa

from luthier.errors import ModelNotFound, NotFound
from luthier.platform.access import Caller
from luthier.platform.names import QualifiedName
from luthier.platform.securables import Securable


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


def lies_in(table: sa.Table, account: str, place: Securable) -> sa.ColumnElement[bool]:
    """In a database, or in a schema."""
    schema = [table.c.schema == place.schema] if place.schema else []
    return sa.and_(table.c.account == account, table.c.database == place.database, *schema)


def no_model(name: QualifiedName) -> ModelNotFound:
    """The one answer for a model that is not there, and for one that the caller may not see."""
    return ModelNotFound(f"No model {name.display}. `luthier models list` shows those there are.")


def no_table(name: QualifiedName) -> NotFound:
    return NotFound(f"No table {name.display}. `luthier tables list` shows those there are.")
