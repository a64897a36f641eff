"""The native API on jobs: CREATE, SHOW, DESCRIBE, CANCEL. What a job does as it goes: native_follow.py."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from luthier.platform.access import Caller
from luthier.platform.jobs import Job, JobStatus
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.wire import CreateJob, RetuneModel, native_description
from luthier.serve.doors.deps import CallerOf, IdempotencyKey, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import Limit, paged
from luthier.serve.services import Services

routes = JsonRouter(prefix="/jobs")


@routes.post("", status_code=201, response_model=None)
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


@routes.post("/retune", status_code=201, response_model=None)
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


@routes.get("")
def show_jobs(
    caller: CallerOf, services: ServicesOf, before: str | None = None, limit: Limit = MAX_SHOWN
) -> dict[str, Any]:
    """FINETUNE('SHOW'), newest first; `next` is the `before` of the next page."""
    jobs = services.finetune.show(caller, limit, before)
    return paged("jobs", jobs, limit, lambda job: job.id, _described(services, caller, jobs))


@routes.get("/{job_id}")
def describe_job(job_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """FINETUNE('DESCRIBE')."""
    return _described(services, caller, [services.finetune.describe(caller, job_id)])[0]


@routes.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """FINETUNE('CANCEL')."""
    return _described(services, caller, [services.finetune.cancel(caller, job_id)])[0]


def _accepted(request: Request, services: Services, caller: Caller, job: Job) -> dict[str, Any]:
    request.state.object = ("job", job.id)
    return _described(services, caller, [job])[0]


def _described(services: Services, caller: Caller, jobs: list[Job]) -> list[dict[str, Any]]:
    is_queued = any(job.status is JobStatus.PENDING for job in jobs)
    places = services.registry.jobs.positions(caller) if is_queued else {}
    return [native_description(job, places.get(job.id)) for job in jobs]
