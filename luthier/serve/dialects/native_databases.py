"""The native API on databases and schemas: /luthier/v1/databases, /schemas."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field

from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.names import fold
from luthier.platform.securables import ObjectKind, Securable
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import Page, PageOf
from luthier.serve.doors.paths import NAME
from luthier.serve.services import Services

routes = JsonRouter()


class NewPlace(Frozen):
    name: str
    """Of a schema with its database, `database.schema`, unless that is the default one."""
    comment: str = Field("", max_length=1000)


@routes.post("/databases", status_code=201)
def create_database(request: Request, body: NewPlace, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """It begins with a schema PUBLIC."""
    request.state.object = ("database", fold(body.name.strip()))
    return _create(services, caller, ObjectKind.DATABASE, body)


@routes.get("/databases")
def list_databases(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names."""
    return _page("databases", services, caller, ObjectKind.DATABASE, page)


@routes.delete(f"/databases/{NAME}")
def drop_database(name: str, caller: CallerOf, services: ServicesOf, cascade: bool = False) -> dict[str, Any]:
    """`cascade`: with the tables and models in it."""
    return drop_place(services, caller, services.securable(ObjectKind.DATABASE, name), cascade)


@routes.post("/schemas", status_code=201)
def create_schema(request: Request, body: NewPlace, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    request.state.object = ("schema", body.name)
    return _create(services, caller, ObjectKind.SCHEMA, body)


@routes.get("/schemas")
def list_schemas(
    caller: CallerOf,
    services: ServicesOf,
    page: PageOf,
    database: Annotated[str | None, Query(max_length=1000)] = None,
) -> dict[str, Any]:
    """By their names; `after` is one with its database."""
    return _page("schemas", services, caller, ObjectKind.SCHEMA, page, fold(database) if database else None)


@routes.delete(f"/schemas/{NAME}")
def drop_schema(name: str, caller: CallerOf, services: ServicesOf, cascade: bool = False) -> dict[str, Any]:
    return drop_place(services, caller, services.securable(ObjectKind.SCHEMA, name), cascade)


def drop_place(services: Services, caller: Caller, place: Securable, cascade: bool) -> dict[str, Any]:
    """With the files of its tables; those of its models wait to be collected."""
    gone = services.registry.databases.drop(caller, place, cascade)
    for table in gone:
        Path(table.path).unlink(missing_ok=True)
    return {"name": place.dotted, "tables": [table.name for table in gone]}


def _create(services: Services, caller: Caller, kind: ObjectKind, body: NewPlace) -> dict[str, Any]:
    place = services.securable(kind, body.name)
    services.registry.databases.create(caller, place, body.comment)
    return services.registry.databases.get(caller, place).model_dump()


def _page(
    name: str, services: Services, caller: Caller, kind: ObjectKind, page: Page, within: str | None = None
) -> dict[str, Any]:
    behind = services.securable(kind, page.after) if page.after else None
    found = services.registry.databases.show(caller, kind, within, page.limit, behind)
    return page.told(name, found, lambda place: place.dotted)
