"""The native API on tables: uploaded, shown, dropped."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from luthier.platform.models import TableInfo
from luthier.serve.doors import uploads
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.pages import PageOf
from luthier.serve.doors.paths import NAME

routes = APIRouter(prefix="/tables")


@routes.post("", status_code=201)
async def upload_table(
    request: Request, name: str, filename: str, caller: CallerOf, services: ServicesOf, replace: bool = False
) -> dict[str, Any]:
    """The body is the file; `filename` ends in .csv, .jsonl, .parquet or .txt."""
    table = await uploads.create_table(services, caller, services.name(name), filename, request.stream(), replace)
    return _told(table)


@routes.get("")
def list_tables(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names."""
    tables = services.registry.tables.show(caller, page.limit, page.after)
    return page.told("tables", tables, lambda table: table.name, map(_told, tables))


@routes.delete(f"/{NAME}")
def drop_table(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    table = services.registry.tables.drop(caller, services.name(name))
    Path(table.path).unlink(missing_ok=True)
    return _told(table)


def _told(table: TableInfo) -> dict[str, Any]:
    return table.model_dump(exclude={"path"})
