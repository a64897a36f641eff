"""The HTTP apps: routes of the dialects, one table of errors, a request id on every answer. They run without Ray."""

from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Lifespan

from luthier.platform.request_ids import front_secret
from luthier.serve.batches.batching import Batching
from luthier.serve.dialects import cortex, databricks, native, openai, openai_batches, openai_files
from luthier.serve.doors.auditing import Audited, Auditor
from luthier.serve.doors.deps import KeyCheck
from luthier.serve.doors.direct import ROUTES, Direct, Route
from luthier.serve.doors.faults import answer_errors
from luthier.serve.doors.intake import Intake
from luthier.serve.doors.middleware import Logged, RequestId
from luthier.serve.doors.oidc import make_oidc
from luthier.serve.engines import engine_metrics
from luthier.serve.services import Services


def build_api(services: Services) -> FastAPI:
    """The gateway: all dialects, and the work on batches while it runs."""
    batching = Batching(services)
    of_openai = (openai.router, openai_files.router, openai_batches.router)
    app = _app(services, native.router, *of_openai, cortex.router, databricks.router, lifespan=batching.running)
    app.state.batching = batching
    return app


def build_direct(services: Services, replica: str = "") -> ASGIApp:
    """A replica's own door: completions in every dialect, and how the engine does, by the replica's name."""
    app = _app(services, openai.router, engine_metrics.router)
    app.state.replica = replica
    return Direct(services, app.state.intake, app.state.auditor, _route_of, app)


def _route_of(path: str) -> Route | None:
    return ROUTES.get(path) or cortex.ROUTES.get(path) or databricks.route_of(path)


def _app(services: Services, *routers: APIRouter, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    told = "Fine-tune and serve language models."
    routes = [route for router in routers for route in router.routes]
    app = FastAPI(title="Luthier", version=version("luthier"), description=told, lifespan=lifespan, routes=routes)
    app.state.services = services
    app.state.keys = KeyCheck(services.registry, services.epoch, make_oidc(services.settings, services.registry))
    app.state.auditor = Auditor(services.registry.audit.append)
    app.state.intake = Intake(services.settings, app.state.keys)
    app.add_middleware(app.state.intake.before)
    app.add_middleware(Audited, auditor=app.state.auditor)
    if services.access_log:
        app.add_middleware(Logged, log=services.access_log)
    app.add_middleware(RequestId, secret=front_secret(services.settings.home))
    of_databricks = dict.fromkeys((databricks.PREFIX, databricks.ENDPOINTS), databricks.refusal)
    answer_errors(app, {cortex.PREFIX: cortex.refusal, **of_databricks})
    return app
