"""The native API, /luthier/v1: jobs, tables, models, SQL, usage, status. Each native_* file has a part of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.importing import Origin
from luthier.platform.jobs import Job, JobStatus
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.models import ModelVersion, TableInfo
from luthier.platform.prices import to_credits
from luthier.platform.privileges import Action
from luthier.platform.registry.audit import Time
from luthier.platform.registry.ledger import GroupBy
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.registry.usage import MAX_PAGE, Selection
from luthier.platform.wire import CreateJob, ReplicateModel, RetuneModel, RunSql, native_description
from luthier.serve import uploads
from luthier.serve.deps import CallerOf, ServicesOf, SessionOf
from luthier.serve.dialects import (
    native_access,
    native_audit,
    native_base_models,
    native_credits,
    native_databases,
    native_engines,
    native_export,
    native_follow,
    native_keys,
    native_limits,
    native_shares,
    native_usage,
    native_versions,
    native_views,
    native_webhooks,
)
from luthier.serve.dialects.snowflake_sql import run_sql
from luthier.serve.pages import Limit, PageOf, paged
from luthier.serve.paths import NAME
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY

ARROW_STREAM = "application/vnd.apache.arrow.stream"

router = APIRouter(tags=["Luthier"])
v1 = APIRouter(prefix="/luthier/v1")

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]
Groups = Annotated[list[GroupBy] | None, Query()]


@dataclass
class Which:
    """Records of usage, page by page."""

    since: Time = 0
    until: Time = 2**62
    after: str | None = None
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE


# jobs


@v1.post("/jobs", status_code=201, response_model=None)
def create_job(
    request: Request,
    body: CreateJob,
    caller: CallerOf,
    services: ServicesOf,
    key: IdempotencyKey = None,
    dry_run: bool = False,
) -> JSONResponse | dict[str, Any]:
    """FINETUNE('CREATE'). With `dry_run` the answer (200) is the data report and nothing is started."""
    request.state.object = ("job of model", body.model)
    if dry_run:
        return JSONResponse(services.finetune.dry_run(caller, body).model_dump(mode="json"))
    return _accepted(request, services, caller, services.finetune.create(caller, body, key))


@v1.post("/jobs/retune", status_code=201, response_model=None)
def retune_model(
    request: Request,
    body: RetuneModel,
    caller: CallerOf,
    services: ServicesOf,
    key: IdempotencyKey = None,
    dry_run: bool = False,
) -> JSONResponse | dict[str, Any]:
    """Trains a model again on another base model, from the data that was frozen with it: its next version.

    With `dry_run` the answer (200) is the data report and nothing is started.
    """
    request.state.object = ("job of model", body.model)
    if dry_run:
        return JSONResponse(services.finetune.dry_retune(caller, body).model_dump(mode="json"))
    return _accepted(request, services, caller, services.finetune.retune(caller, body, key))


@v1.get("/jobs")
def show_jobs(
    caller: CallerOf, services: ServicesOf, before: str | None = None, limit: Limit = MAX_SHOWN
) -> dict[str, Any]:
    """FINETUNE('SHOW'), newest first; `next` is the `before` of the next page."""
    jobs = services.finetune.show(caller, limit, before)
    return paged("jobs", jobs, limit, lambda job: job.id, _described(services, caller, jobs))


@v1.get("/jobs/{job_id}")
def describe_job(job_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """FINETUNE('DESCRIBE')."""
    return _described(services, caller, [services.finetune.describe(caller, job_id)])[0]


@v1.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """FINETUNE('CANCEL')."""
    return _described(services, caller, [services.finetune.cancel(caller, job_id)])[0]


# tables


@v1.post("/tables", status_code=201)
async def upload_table(
    request: Request, name: str, filename: str, caller: CallerOf, services: ServicesOf, replace: bool = False
) -> dict[str, Any]:
    """The body is the file; `filename` ends in .csv, .jsonl, .parquet or .txt."""
    table = await uploads.create_table(services, caller, services.name(name), filename, request.stream(), replace)
    return _table_told(table)


@v1.get("/tables")
def list_tables(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names."""
    tables = services.registry.tables.show(caller, page.limit, page.after)
    return page.told("tables", tables, lambda table: table.name, map(_table_told, tables))


@v1.delete(f"/tables/{NAME}")
def drop_table(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    table = services.registry.tables.drop(caller, services.name(name))
    Path(table.path).unlink(missing_ok=True)
    return _table_told(table)


# models


@v1.post("/models", status_code=201)
async def import_model(
    request: Request,
    name: str,
    caller: CallerOf,
    services: ServicesOf,
    origin: Annotated[Origin, Depends()],
) -> dict[str, Any]:
    """A LoRA adapter trained elsewhere becomes a model.

    The body is multipart/form-data with the files adapter_config.json and adapter_model.safetensors. Without
    `base_model` the settings must name one of the catalog.
    """
    model = await uploads.import_model(services, caller, services.name(name), origin, request)
    return (await REGISTRY.run(told_of, services, [model]))[0]


@v1.get("/models")
def list_models(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names; `next` is the `after` of the next page."""
    models = services.registry.models.show(caller, page.limit, page.after)
    return page.told("models", models, lambda model: model.model, told_of(services, models))


@v1.get(f"/models/{NAME}")
def get_model(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return told_of(services, [services.registry.models.get(caller, *services.model_name(name))])[0]


@v1.delete(f"/models/{NAME}")
def drop_model(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """With a version in the name (NAME@3) that one alone."""
    return told_of(services, [services.registry.models.drop(caller, *services.model_name(name))])[0]


@v1.post(f"/models/{NAME}/replicate")
def replicate_model(name: str, body: ReplicateModel, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Brings the model in another region up to date, or makes it there: files and versions that are not there yet."""
    return services.replication.replicate(caller, services.name(name), body.region).model_dump()


@v1.get(f"/models/{NAME}/artifacts")
def list_artifacts(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The files of the default version, or of that in the name: adapter, training_results.csv, manifest."""
    folder = _artifacts(services, caller, name)
    return {"artifacts": [{"name": file.name, "bytes": file.stat().st_size} for file in sorted(folder.iterdir())]}


@v1.get(f"/models/{NAME}/artifacts/{{file}}")
def get_artifact(name: str, file: str, caller: CallerOf, services: ServicesOf) -> FileResponse:
    folder = _artifacts(services, caller, name)
    if file not in {found.name for found in folder.iterdir()}:
        raise NotFound(f"Model {name} has no artifact {file!r}.")
    return FileResponse(folder / file, filename=file)


# SQL


@v1.post("/sql")
async def sql(request: Request, body: RunSql, session: SessionOf, services: ServicesOf) -> Response:
    """One statement. Arrow IPC stream if asked for by `Accept`, else {"columns": [...], "rows": [[...]]}.

    JSON has no NaN and no infinity: they are the texts "NaN", "Infinity" and "-Infinity".
    """
    table = await run_sql(services, session, body.statement, request.scope)
    if ARROW_STREAM in request.headers.get("accept", ""):
        return Response(_to_arrow(table), media_type=ARROW_STREAM)
    import json

    columns = [_cells(column) for column in table.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    text = json.dumps({"columns": table.column_names, "rows": rows}, default=_to_json, allow_nan=False)
    return Response(text, media_type="application/json")


# usage and status


@v1.get("/usage/{kind}")
def usage(
    kind: Literal["finetuning", "completions", "storage", "credits"],
    caller: CallerOf,
    services: ServicesOf,
    which: Annotated[Which, Depends()],
    group_by: Groups = None,
) -> dict[str, Any]:
    """Records of one kind, or (`credits`, or with `group_by`) sums. Times in epoch milliseconds.

    Records are told in the order in which they came to the ledger; `next` is the `after` of the next page.
    """
    kinds = {
        "finetuning": UsageKind.TRAINING,
        "completions": UsageKind.COMPLETION,
        "storage": UsageKind.STORAGE,
    }
    ledger = services.registry.ledger
    if kind == "credits" or group_by:
        totals = ledger.totals(caller, group_by or [], which.since, which.until)
        wanted = [row for row in totals if kind == "credits" or row["kind"] == kinds[kind].value]
        return {"usage": [{**row, "credits": str(to_credits(row["amount_ucr"]))} for row in wanted]}
    of = Selection(kind=kinds[kind], since=which.since, until=which.until)
    page = services.registry.usage.page_behind(caller, of, which.after, which.limit)
    return paged("usage", page, which.limit, lambda record: record.source_id, map(_record_told, page))


@v1.get("/whoami")
def whoami(session: SessionOf) -> dict[str, Any]:
    return {**session.caller.model_dump(), "scope": session.scope.model_dump(), "expires_on": session.expires_on}


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(services: ServicesOf, response: Response) -> dict[str, Any]:
    """200 when every base model's engine answers, else 503."""
    ready = await services.completions.ready()
    response.status_code = 200 if all(ready.values()) else 503
    full_models = await services.full_models()
    return {"ready": all(ready.values()), "base_models": ready, "full_models": full_models}


v1.include_router(native_base_models.routes)
v1.include_router(native_credits.routes)
v1.include_router(native_engines.routes)
v1.include_router(native_follow.routes)
v1.include_router(native_usage.routes)
v1.include_router(native_versions.routes)
v1.include_router(native_export.routes)
v1.include_router(native_access.routes)
v1.include_router(native_shares.routes)
v1.include_router(native_databases.routes)
v1.include_router(native_views.routes)
v1.include_router(native_keys.routes)
v1.include_router(native_audit.routes)
v1.include_router(native_limits.routes)
v1.include_router(native_webhooks.routes)
router.include_router(native_follow.scrape)
router.include_router(v1)


def _accepted(request: Request, services: Services, caller: Caller, job: Job) -> dict[str, Any]:
    request.state.object = ("job", job.id)
    return _described(services, caller, [job])[0]


def _described(services: Services, caller: Caller, jobs: list[Job]) -> list[dict[str, Any]]:
    is_queued = any(job.status is JobStatus.PENDING for job in jobs)
    places = services.registry.jobs.positions(caller) if is_queued else {}
    return [native_description(job, places.get(job.id)) for job in jobs]


def told_of(services: Services, models: Sequence[ModelVersion]) -> list[dict[str, Any]]:
    """With what engines found of them."""
    proofs = services.registry.proofs.of(models)
    return [{**services.told(model), "proof": proofs[model.number].model_dump()} for model in models]


def _table_told(table: TableInfo) -> dict[str, Any]:
    return table.model_dump(exclude={"path"})


def _record_told(record: UsageRecord) -> dict[str, Any]:
    return {**record.model_dump(), "credits": str(to_credits(record.amount_ucr))}


def _artifacts(services: Services, caller: Caller, name: str) -> Path:
    return Path(services.registry.models.get(caller, *services.model_name(name), to=Action.READ_ARTIFACTS).path)


def _cells(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    may_hold_floats = pa.types.is_floating(column.type) or pa.types.is_nested(column.type)
    return [_finite(value) for value in values] if may_hold_floats else values


def _finite(value: Any) -> Any:
    """What JSON has no number for as text, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return value


def _to_json(value: Any) -> int | str:
    """Whole decimals (a SUM of integers is one) are numbers; other decimals, times and bytes are text."""
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        return int(value)
    return str(value)


def _to_arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
