"""The native API on models: brought, shown, dropped; file by file, as they are or merged; and files of dropped ones."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import FileResponse, StreamingResponse

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import base_model_dir
from luthier.platform.models import Model, ModelVersion
from luthier.platform.privileges import Action
from luthier.platform.weights.exporting import ExportFile, export_files, with_digest
from luthier.platform.weights.importing import Origin
from luthier.platform.wire import ReplicateModel
from luthier.serve.doors import uploads
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageOf
from luthier.serve.doors.paths import NAME
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY

routes = JsonRouter()


@routes.post("/models", status_code=201)
async def import_model(
    request: Request, name: str, caller: CallerOf, services: ServicesOf, origin: Annotated[Origin, Depends()]
) -> dict[str, Any]:
    """A LoRA adapter trained elsewhere becomes a model.

    The body is multipart/form-data with the files adapter_config.json and adapter_model.safetensors. Without
    `base_model` the settings must name one of the catalog.
    """
    model = await uploads.import_model(services, caller, services.name(name), origin, request)
    return (await REGISTRY.run(told_of, services, [model]))[0]


@routes.get("/models")
def list_models(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names; `next` is the `after` of the next page."""
    models = services.registry.models.show(caller, page.limit, page.after)
    return page.told("models", models, lambda model: model.model, told_of(services, models))


@routes.get(f"/models/{NAME}")
def get_model(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return told_of(services, [services.registry.models.get(caller, *services.model_name(name))])[0]


@routes.delete(f"/models/{NAME}")
def drop_model(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """With a version in the name (NAME@3) that one alone."""
    return told_of(services, [services.registry.models.drop(caller, *services.model_name(name))])[0]


@routes.post(f"/models/{NAME}/replicate")
def replicate_model(name: str, body: ReplicateModel, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Brings the model in another region up to date, or makes it there: files and versions that are not there yet."""
    return services.replication.replicate(caller, services.name(name), body.region).model_dump()


@routes.get(f"/models/{NAME}/artifacts")
def list_artifacts(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The files of the default version, or of that in the name: adapter, training_results.csv, manifest."""
    folder = _artifacts(services, caller, name)
    return {"artifacts": [{"name": file.name, "bytes": file.stat().st_size} for file in sorted(folder.iterdir())]}


@routes.get(f"/models/{NAME}/artifacts/{{file}}")
def get_artifact(name: str, file: str, caller: CallerOf, services: ServicesOf) -> FileResponse:
    folder = _artifacts(services, caller, name)
    if file not in {found.name for found in folder.iterdir()}:
        raise NotFound(f"Model {name} has no artifact {file!r}.")
    return FileResponse(folder / file, filename=file)


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


def told_of(services: Services, models: Sequence[ModelVersion]) -> list[dict[str, Any]]:
    """With what engines found of them."""
    proofs = services.registry.proofs.of(models)
    return [{**services.told(model), "proof": proofs[model.number].model_dump()} for model in models]


def _artifacts(services: Services, caller: Caller, name: str) -> Path:
    return Path(services.registry.models.get(caller, *services.model_name(name), to=Action.READ_ARTIFACTS).path)


def _export(services: Services, caller: Caller, name: str, merged: bool) -> tuple[Model, list[ExportFile]]:
    model = services.registry.models.get(caller, *services.model_name(name), to=Action.READ_ARTIFACTS)
    base = services.catalog.get(model.base_model)
    return model, export_files(model, base, base_model_dir(services.settings, base), merged)
