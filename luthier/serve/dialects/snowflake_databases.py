"""Snowflake's SQL on databases and schemas: CREATE, DROP, SHOW.

Shapes: docs.snowflake.com, CREATE DATABASE, DROP SCHEMA, SHOW DATABASES, SHOW SCHEMAS. One that holds something is
dropped with CASCADE alone: nothing is kept to bring it back from.
"""

import re

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.names import fold
from luthier.platform.securables import ObjectKind, Securable, parse_securable
from luthier.serve.dialects.native_databases import drop_place
from luthier.serve.dialects.snowflake_statements import (
    COMMENT,
    IF_EXISTS,
    IF_NOT_EXISTS,
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

DATABASES = columns("created_on", "name", "is_default", "is_current", "origin", "owner", "comment", "kind")
SCHEMAS = columns("created_on", "name", "is_default", "is_current", "database_name", "owner", "comment")
KIND, PLACE = "(?P<kind>DATABASE|SCHEMA)", f"(?P<name>{NAME})"


def _create(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    place = _place(services, found)
    is_new = services.registry.databases.create(caller, place, text_of(found["comment"]))
    return created(place.kind, place.schema or place.database, is_new)


def _drop(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    place, is_all = _place(services, found), (found["how"] or "").upper() == "CASCADE"
    return dropped(found, place.schema or place.database, lambda: drop_place(services, caller, place, is_all))


def _show_databases(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    rows = services.registry.databases.show(caller, ObjectKind.DATABASE)
    fixed = {"origin": "", "kind": "STANDARD"}
    return pa.Table.from_pylist(
        [{**row.model_dump(), "is_current": row.is_default, **fixed} for row in rows], DATABASES
    )


def _show_schemas(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    within = fold(found["database"]) if found["database"] else None
    rows = services.registry.databases.show(caller, ObjectKind.SCHEMA, within)
    named = [{**row.model_dump(), "is_current": row.is_default, "database_name": row.database} for row in rows]
    return pa.Table.from_pylist(named, SCHEMAS)


def _place(services: Services, found: "re.Match[str]") -> Securable:
    kind = ObjectKind(found["kind"].upper())
    return parse_securable(kind, found["name"], services.settings.database, services.settings.schema_name)


STATEMENTS: tuple[tuple["re.Pattern[str]", Answer], ...] = (
    (pattern(f"CREATE {KIND}{IF_NOT_EXISTS} {PLACE}{COMMENT}"), _create),
    (pattern(f"DROP {KIND}{IF_EXISTS} {PLACE}(?: (?P<how>CASCADE|RESTRICT))?"), _drop),
    (pattern(f"SHOW DATABASES{LIKE}(?: IN ACCOUNT)?{STARTS}{LIMIT}"), _show_databases),
    (
        pattern(f"SHOW SCHEMAS{LIKE}(?: IN(?: ACCOUNT|(?: DATABASE)? (?P<database>{NAME})))?{STARTS}{LIMIT}"),
        _show_schemas,
    ),
)
