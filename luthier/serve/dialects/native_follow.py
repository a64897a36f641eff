"""The native API on a job as it goes: events, also as a stream; metrics of its steps; logs. And Prometheus' scrape."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from luthier.platform.run_files import RunFiles, read_answers, read_logs, read_metrics
from luthier.platform.storage import Storage
from luthier.serve.dialects.native_engines import adapters_of
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.pages import MOST, Behind
from luthier.serve.follow import stream
from luthier.serve.metrics import OfAdapters, OfJobs, scraped
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY

EVENT_STREAM = "text/event-stream"

routes = APIRouter(prefix="/jobs/{job_id}")
scrape = APIRouter()

LastEventId = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=MOST)]


@routes.get("/events")
async def job_events(
    request: Request,
    job_id: str,
    caller: CallerOf,
    services: ServicesOf,
    after: Behind = 0,
    last_event_id: LastEventId = None,
) -> Response:
    """Events after the one with an id. As a stream of events and progress if `Accept` asks for `text/event-stream`.

    The stream ends with the job; asked for again after that end it is 204, which stops a browser's EventSource.
    """
    jobs, is_stream = services.registry.jobs, EVENT_STREAM in request.headers.get("accept", "")
    after = max(after, last_event_id or 0)
    news = await REGISTRY.run(jobs.news, caller, job_id, after)
    if not is_stream:
        return JSONResponse({"events": [event.model_dump() for event in news.events]})
    if last_event_id and news.job.status.is_final and not news.events:
        return Response(status_code=204)
    return stream(jobs, caller, news, after)


@routes.get("/metrics")
def job_metrics(
    job_id: str,
    caller: CallerOf,
    services: ServicesOf,
    since_step: Behind = 0,
    points: Annotated[int | None, Query(ge=1, le=MOST)] = None,
) -> Response:
    """Columns with a value for each step after `since_step`; with `points` about so many steps, evenly spread."""
    table = read_metrics(_files(services, caller, job_id).metrics, since_step, points)
    return JSONResponse({"metrics": table.to_pydict()})


@routes.get("/logs")
def job_logs(
    job_id: str, caller: CallerOf, services: ServicesOf, max_bytes: Annotated[int, Query(ge=1, le=4 << 20)] = 1 << 18
) -> dict[str, Any]:
    """The end of what each of the run's processes has logged, by the file's name."""
    return {"logs": read_logs(_files(services, caller, job_id).logs, max_bytes)}


@routes.get("/answers")
def job_answers(job_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """To the eval_prompts, at each checkpoint so far."""
    return {"answers": read_answers(_files(services, caller, job_id).answers)}


@scrape.get("/metrics")
async def prometheus_metrics(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """The account's jobs, and the adapters in all engines, for Prometheus."""
    census = await REGISTRY.run(services.registry.jobs.census, caller)
    return scraped(request, OfJobs(caller.account, census), OfAdapters(await adapters_of(services, caller)))


def _files(services: Services, caller: CallerOf, job_id: str) -> RunFiles:
    job = services.registry.jobs.get(caller, job_id)
    return RunFiles(Storage(services.settings.storage).runs / job.id)
