"""What tables and models share: a row in account > database > schema, found by its folded name."""

from typing import Any

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.names import QualifiedName


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
