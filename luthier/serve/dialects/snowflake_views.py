"""Snowflake's SQL on views: CREATE, DROP, SHOW, DESCRIBE; DESCRIBE of tables, which is the same.

Shapes: docs.snowflake.com, CREATE VIEW, SHOW VIEWS, DESCRIBE VIEW.
"""

import re

import pyarrow as pa

from luthier.errors import InvalidInput, InvalidSql
from luthier.platform.access import Caller
from luthier.platform.names import QualifiedName, fold, parse_name
from luthier.platform.querying import create_view, open_engine
from luthier.platform.registry.views import all_views
from luthier.platform.sql_types import snowflake_type
from luthier.platform.wire import CreateView, IfThere
from luthier.serve.dialects.snowflake_statements import (
    COMMENT,
    IDENTIFIER,
    IF_EXISTS,
    IN_PLACE,
    LIKE,
    LIMIT,
    NAME,
    STARTS,
    Answer,
    columns,
    created,
    dropped,
    pattern,
    text_of,
)
from luthier.serve.services import Services

VIEWS = columns(
    *("created_on", "name", "reserved", "database_name", "schema_name", "owner", "comment", "text", "is_secure"),
    *("is_materialized", "owner_role_type", "change_tracking"),
)
DESCRIBED = columns(
    *("name", "type", "kind", "null?", "default", "primary key", "unique key", "check", "expression", "comment"),
    *("policy name", "privacy domain"),
)
VIEW = f"(?P<name>{NAME})"
COLUMN_LIST = rf"(?:\s*\(\s*(?P<columns>{IDENTIFIER}(?:\s*,\s*{IDENTIFIER})*)\s*\))?"


def _create(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    if found["replace"] and found["keep"]:
        raise InvalidInput("OR REPLACE and IF NOT EXISTS do not go together: say one of them.")
    there = IfThere.REPLACE if found["replace"] else IfThere.KEEP if found["keep"] else IfThere.REFUSE
    listed = found["columns"]
    new = CreateView(
        name=found["name"],
        query=found["query"],
        columns=[_column(each) for each in re.findall(IDENTIFIER, listed)] if listed else None,
        comment=text_of(found["comment"]),
        is_secure=bool(found["secure"]),
        if_there=there,
    )
    made = create_view(services.settings, services.registry, caller, new)
    return created("View", _named(services, found).name, made is not None)


def _unknown(_services: Services, _caller: Caller, _found: "re.Match[str]") -> pa.Table:
    raise InvalidSql(
        "CREATE VIEW is read as CREATE [OR REPLACE] [SECURE] VIEW [IF NOT EXISTS] name [(columns)] "
        "[COMMENT = '...'] AS query: this is written in another way."
    )


def _drop(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = _named(services, found)
    return dropped(found, name.name, lambda: services.registry.views.drop(caller, name))


def _show(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    rows = []
    for view in all_views(services.registry.views, caller):
        name = parse_name(view.name, "", "")
        rows.append(
            {
                **view.model_dump(include={"created_on", "comment", "is_secure"}),
                "name": name.name,
                "reserved": "",
                "database_name": name.database,
                "schema_name": name.schema,
                "owner": view.role,
                "text": view.text,
                "is_materialized": False,
                "owner_role_type": "ROLE",
                "change_tracking": "OFF",
            }
        )
    return pa.Table.from_pylist(rows, VIEWS)


def _describe(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    query = f"SELECT * FROM {_named(services, found).dotted}"
    with open_engine(services.settings, services.registry, caller, query) as engine:
        described = engine.described(query)
    fixed = {"kind": "COLUMN", "null?": "Y", "primary key": "N", "unique key": "N"}
    return pa.Table.from_pylist(
        [{"name": name, "type": snowflake_type(kind), **fixed} for name, kind in described], DESCRIBED
    )


def _named(services: Services, found: "re.Match[str]") -> QualifiedName:
    return parse_name(found["name"], services.settings.database, services.settings.schema_name)


def _column(written: str) -> str:
    """As a column of a query is called: it keeps its case without quotes too."""
    return fold(written) if written.startswith('"') else written


STATEMENTS: tuple[tuple["re.Pattern[str]", Answer], ...] = (
    (
        pattern(
            f"CREATE(?P<replace> OR REPLACE)?(?P<secure> SECURE)? VIEW(?P<keep> IF NOT EXISTS)? {VIEW}{COLUMN_LIST}"
            rf"{COMMENT}\s*\bAS\b\s*(?P<query>.+)"
        ),
        _create,
    ),
    (pattern(r"CREATE(?: \w+){0,5} VIEW .+"), _unknown),
    (pattern(f"DROP VIEW{IF_EXISTS} {VIEW}"), _drop),
    (pattern(f"SHOW VIEWS{LIKE}{IN_PLACE}{STARTS}{LIMIT}"), _show),
    (pattern(f"DESC(?:RIBE)? (?:VIEW|TABLE) {VIEW}"), _describe),
)
