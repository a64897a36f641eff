"""Snowflake's SQL on databases and schemas: CREATE, DROP, SHOW.

Shapes: docs.snowflake.com, CREATE DATABASE, DROP SCHEMA, SHOW DATABASES, SHOW SCHEMAS. One that holds something is
dropped with CASCADE alone: nothing is kept to bring it back from.
"""

import pyarrow as pa

from luthier.platform.keys import Endpoint
from luthier.platform.names import fold
from luthier.platform.registry.databases import Place
from luthier.platform.registry.paging import all_pages
from luthier.platform.securables import ObjectKind
from luthier.serve.dialects.native_databases import drop_place
from luthier.serve.dialects.snowflake_statements import Command, Statements, columns, created, dropped, table

DATABASES = columns("created_on, name, is_default, is_current, origin, owner, comment, kind")
SCHEMAS = columns("created_on, name, is_default, is_current, database_name, owner, comment")

statements = Statements(Endpoint.ADMIN, KIND="(?P<kind>DATABASE|SCHEMA)")


@statements.on("CREATE {KIND}{IF_NOT_EXISTS} {FULL_NAME}{COMMENT}")
def _create(command: Command) -> pa.Table:
    place = command.services.securable(command.kind, command["name"])
    is_new = command.registry.databases.create(command.caller, place, command.comment)
    return created(place.kind, place.schema or place.database, is_new)


@statements.on("DROP {KIND}{IF_EXISTS} {FULL_NAME}(?: (?P<how>CASCADE|RESTRICT))?")
def _drop(command: Command) -> pa.Table:
    services, is_all = command.services, (command["how"] or "").upper() == "CASCADE"
    place = services.securable(command.kind, command["name"])
    name = place.schema or place.database
    return dropped(command, name, lambda: drop_place(services, command.caller, place, is_all))


@statements.on("SHOW DATABASES{LIKE}(?: IN ACCOUNT)?{STARTS}{LIMIT}")
def _show_databases(command: Command) -> pa.Table:
    rows = _shown(command, ObjectKind.DATABASE)
    told = [{**row.model_dump(), "is_current": row.is_default, **_made_of(row)} for row in rows]
    return table(DATABASES, told)


def _made_of(database: Place) -> dict[str, str]:
    if database.origin is None:
        return {"origin": "", "kind": "STANDARD"}
    return {"origin": database.origin, "kind": "IMPORTED DATABASE"}


@statements.on(
    "SHOW SCHEMAS{LIKE}(?: IN (?:ACCOUNT|(?P<home>DATABASE)|(?:DATABASE )?(?P<database>{NAME})))?{STARTS}{LIMIT}"
)
def _show_schemas(command: Command) -> pa.Table:
    home = command.services.settings.database if command["home"] else None
    within = fold(command["database"]) if command["database"] else home
    rows = _shown(command, ObjectKind.SCHEMA, within)
    told = [{**row.model_dump(), "is_current": row.is_default, "database_name": row.database} for row in rows]
    return table(SCHEMAS, told)


def _shown(command: Command, kind: ObjectKind, within: str | None = None) -> list[Place]:
    wanted = command.wanted_since if kind is ObjectKind.DATABASE else command.wanted

    def show(limit: int, after: str | None) -> list[Place]:
        behind = command.services.securable(kind, after) if after else None
        return command.registry.databases.show(command.caller, kind, within, limit, behind, wanted)

    return all_pages(show, lambda place: place.dotted, command.most_rows, lambda place: wanted.fits(place.name))
