"""The native API's routes by which models leave: adapters or whole weights, file by file; and files of dropped ones."""

import shutil
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import base_model_dir
from luthier.platform.exporting import ExportFile, export_files, with_digest
from luthier.platform.models import Model
from luthier.platform.privileges import Action
from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.paths import NAME
from luthier.serve.services import Services

routes = APIRouter()


@routes.get(f"/models/{NAME}/export")
def list_export(name: str, caller: CallerOf, services: ServicesOf, merged: bool = False) -> dict[str, Any]:
    """The files of the default version, or of that in the name, with their sizes. `merged` asks for whole weights."""
    model, files = _export(services, caller, name, merged)
    told = model.model_dump(include={"model", "version", "sha256"})
    return {**told, "files": [{"name": file.name, "bytes": file.num_bytes} for file in files]}


@routes.get(f"/models/{NAME}/export/{{file}}")
def get_export(
    name: str, file: str, caller: CallerOf, services: ServicesOf, merged: bool = False, digest: bool = False
) -> StreamingResponse:
    """One of them. Weights are merged while they are sent. `digest` asks for 32 bytes behind it: its SHA-256."""
    _, files = _export(services, caller, name, merged)
    found = next((each for each in files if each.name == file), None)
    if found is None:
        raise NotFound(f"The export of {name} has no file {file!r}.")
    if digest:
        found = with_digest(found)
    headers = {"Content-Length": str(found.num_bytes)}
    return StreamingResponse(found.read(), media_type="application/octet-stream", headers=headers)


@routes.post("/collect")
def collect(caller: CallerOf, services: ServicesOf, dry_run: bool = False) -> dict[str, Any]:
    """Removes the files that no model has had for longer than `collect_after_minutes`, or tells which they are."""
    services.registry.accounts.check_operator(caller)
    garbage = services.registry.artifacts.collect(dry_run)
    if not dry_run:
        for each in garbage:
            shutil.rmtree(each.path, ignore_errors=True)
    return {"collected": [{"name": each.path.stem, "bytes": each.num_bytes} for each in garbage]}


def _export(services: Services, caller: Caller, name: str, merged: bool) -> tuple[Model, list[ExportFile]]:
    model = services.registry.models.get(caller, *services.model_name(name), to=Action.READ_ARTIFACTS)
    base = services.catalog.get(model.base_model)
    return model, export_files(model, base, base_model_dir(services.settings, base), merged)
