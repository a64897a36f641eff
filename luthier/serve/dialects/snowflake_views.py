"""Snowflake's SQL on views: CREATE, DROP, SHOW, DESCRIBE; DESCRIBE of tables, which is the same.

Shapes: docs.snowflake.com, CREATE VIEW, SHOW VIEWS, DESCRIBE VIEW.
"""

import re

import pyarrow as pa

from luthier.errors import InvalidInput, InvalidSql
from luthier.platform.keys import Endpoint
from luthier.platform.names import fold, parse_name
from luthier.platform.registry.views import all_views
from luthier.platform.sql.querying import create_view, open_engine
from luthier.platform.sql.sql_types import snowflake_type
from luthier.platform.wire import CreateView, IfThere
from luthier.serve.dialects.snowflake_statements import (
    IDENTIFIER,
    Command,
    Statements,
    columns,
    created,
    dropped,
    table,
)

VIEWS = columns(
    "created_on, name, reserved, database_name, schema_name, owner, comment, text, is_secure, is_materialized, "
    "owner_role_type, change_tracking"
)
DESCRIBED = columns(
    "name, type, kind, null?, default, primary key, unique key, check, expression, comment, policy name, privacy domain"
)
COLUMN_LIST = rf"(?:\s*\(\s*(?P<columns>{IDENTIFIER}(?:\s*,\s*{IDENTIFIER})*)\s*\))?"

statements = Statements(Endpoint.TABLES, COLUMN_LIST=COLUMN_LIST)


@statements.on(
    "CREATE(?P<replace> OR REPLACE)?(?P<secure> SECURE)? VIEW(?P<keep> IF NOT EXISTS)? {FULL_NAME}{COLUMN_LIST}"
    r"{COMMENT}\s*\bAS\b\s*(?P<query>.+)"
)
def _create(command: Command) -> pa.Table:
    if command["replace"] and command["keep"]:
        raise InvalidInput("OR REPLACE and IF NOT EXISTS do not go together: say one of them.")
    there = IfThere.REPLACE if command["replace"] else IfThere.KEEP if command["keep"] else IfThere.REFUSE
    listed = command["columns"]
    new = CreateView(
        name=command["name"],
        query=command["query"],
        columns=[_column(each) for each in re.findall(IDENTIFIER, listed)] if listed else None,
        comment=command.comment,
        is_secure=bool(command["secure"]),
        if_there=there,
    )
    made = create_view(command.services.settings, command.registry, command.caller, new)
    return created("View", command.services.name(command["name"]).name, made is not None)


def _column(written: str) -> str:
    """As a column of a query is called: it keeps its case without quotes too."""
    return fold(written) if written.startswith('"') else written


@statements.on(
    "CREATE(?: (?:OR|REPLACE|ALTER|SECURE|LOCAL|GLOBAL|TEMP|TEMPORARY|VOLATILE|RECURSIVE|MATERIALIZED|SEMANTIC))* "
    "VIEW .+"
)
def _unknown(_command: Command) -> pa.Table:
    raise InvalidSql(
        "CREATE VIEW is read as CREATE [OR REPLACE] [SECURE] VIEW [IF NOT EXISTS] name [(columns)] "
        "[COMMENT = '...'] AS query: this is written in another way."
    )


@statements.on("DROP VIEW{IF_EXISTS} {FULL_NAME}")
def _drop(command: Command) -> pa.Table:
    name = command.services.name(command["name"])
    return dropped(command, name.name, lambda: command.registry.views.drop(command.caller, name))


@statements.on("SHOW VIEWS{LIKE}{IN_PLACE}{STARTS}{LIMIT}")
def _show(command: Command) -> pa.Table:
    command.check_place()
    rows = []
    for view in all_views(command.registry.views, command.caller, command.most_rows, command.wanted):
        name = parse_name(view.name, "", "")
        place = {"name": name.name, "database_name": name.database, "schema_name": name.schema}
        rows.append({**view.model_dump(), **place, "owner": view.role, "text": view.text})
    return table(VIEWS, rows, reserved="", is_materialized=False, owner_role_type="ROLE", change_tracking="OFF")


@statements.on("DESC(?:RIBE)? (?:VIEW|TABLE) {FULL_NAME}")
def _describe(command: Command) -> pa.Table:
    query = f"SELECT * FROM {command.services.name(command['name']).dotted}"
    with open_engine(command.services.settings, command.registry, command.caller, query) as engine:
        rows = [{"name": name, "type": snowflake_type(kind)} for name, kind in engine.described(query)]
    return table(DESCRIBED, rows, kind="COLUMN", **{"null?": "Y", "primary key": "N", "unique key": "N"})
