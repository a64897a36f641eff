"""Files on their way to a table or a model: body -> scratch -> checked -> stored -> registry.

A table's file is checked as what its ending says, and becomes Parquet; an adapter's become a folder named by content.
"""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request

from luthier.errors import InvalidInput, Unavailable
from luthier.platform.access import Caller
from luthier.platform.jobs import now_ms
from luthier.platform.models import Model, TableInfo
from luthier.platform.names import QualifiedName
from luthier.platform.sql.sql_engine import read_file
from luthier.platform.storage import Storage, write_parquet
from luthier.platform.weights.adapter_files import check_file_name
from luthier.platform.weights.importing import Origin
from luthier.serve.doors.multipart import receive_files
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY, UPLOADS


async def create_table(
    services: Services, caller: Caller, name: QualifiedName, filename: str, body: AsyncIterator[bytes], replace: bool
) -> TableInfo:
    """`filename` tells the format by its ending; its folders are not used."""
    await REGISTRY.run(services.registry.tables.precheck, caller, name)
    uploads = Storage(services.settings.storage).uploads
    scratch = uploads / (uuid.uuid4().hex + Path(filename).suffix.lower())
    uploads.mkdir(parents=True, exist_ok=True)
    try:
        await _receive(scratch, body)
        return await UPLOADS.run(_store, services, caller, name, scratch, Path(filename).name, replace)
    finally:
        scratch.unlink(missing_ok=True)


async def import_model(
    services: Services, caller: Caller, name: QualifiedName, origin: Origin, request: Request
) -> Model:
    """The request's files are those of an adapter."""
    await REGISTRY.run(services.imports.precheck, caller, name, origin)
    scratch = Storage(services.settings.storage).uploads / uuid.uuid4().hex
    scratch.mkdir(parents=True)
    try:
        await receive_files(request.headers.get("content-type", ""), request.stream(), scratch, check_file_name)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return await asyncio.shield(UPLOADS.run(_import, services, caller, name, origin, scratch))


def _import(services: Services, caller: Caller, name: QualifiedName, origin: Origin, scratch: Path) -> Model:
    """Goes on when the client leaves: until its end nobody else may remove the files."""
    try:
        return services.imports.import_model(caller, name, origin, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def _receive(scratch: Path, body: AsyncIterator[bytes]) -> None:
    with scratch.open("wb") as file:
        async for part in body:
            file.write(part)


def _store(
    services: Services, caller: Caller, name: QualifiedName, scratch: Path, filename: str, replace: bool
) -> TableInfo:
    reader = read_file(scratch, filename)
    written = write_parquet(Storage(services.settings.storage).table_file(), reader.schema, reader)
    info = TableInfo(
        name=name.display,
        owner=caller.user,
        path=str(written.path),
        num_rows=written.num_rows,
        columns=reader.schema.names,
        created_on=now_ms(),
    )
    with gone_if_refused(written.path):
        if not written.num_rows:
            raise InvalidInput(f"{filename} has no rows.")
        replaced = services.registry.tables.create(caller, name, info, replace)
    if replaced:
        Path(replaced.path).unlink(missing_ok=True)  # who reads it now has it open, and reads on
    return info


@contextmanager
def gone_if_refused(file: Path) -> Iterator[None]:
    """A file that the registry is told of. When it does not answer, it may know of it all the same: the file stays."""
    try:
        yield
    except Unavailable:
        raise
    except BaseException:
        file.unlink()
        raise
