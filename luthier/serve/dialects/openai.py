"""OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models.

Wire format: platform.openai.com/docs/api-reference, as the official Python client 3.x sends and reads it.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.errors import ModelNotFound, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.models import ModelVersion
from luthier.platform.versions import parse_model
from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.direct import ROUTES, Completing, Route
from luthier.serve.services import Services

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class Handed(Response):
    """What a bare ASGI app answers."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def body_schema(route: Route) -> dict[str, Any]:
    """For the API's documentation: a bare ASGI app has no declared body."""
    content = {"application/json": {"schema": route.body.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


@router.post("/chat/completions", openapi_extra=body_schema(ROUTES["/v1/chat/completions"]))
@router.post("/completions", openapi_extra=body_schema(ROUTES["/v1/completions"]))
async def complete(request: Request, services: ServicesOf) -> Response:
    """Answers at once, or in server-sent events where `stream` is true."""
    return Handed(Completing(services, request.app.state.keys, ROUTES[request.scope["route"].path]))


@router.get("/models")
def list_models(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The base models that answer here, and the caller's tuned models: the first 10,000 by name."""
    tuned = [_tuned(version) for version in services.models_of(caller)]
    return {"object": "list", "data": [*_bases(services, caller), *tuned]}


@router.get("/models/{model:path}")
def get_model(model: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    for base in _bases(services, caller):
        if base["id"] == model:
            return base
    name = parse_model(model, services.settings.database, services.settings.schema_name)
    version = services.registry.models.get(caller, *name)
    if not services.answers_for(version):
        raise ModelNotFound(
            f"Model {version.model} stands on {version.base_model}, which does not answer here.", param="model"
        )
    return _tuned(version)


@router.delete("/models/{model:path}")
def delete_model(model: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Forgets a tuned model, or the version in the name; the name in the answer is the whole one."""
    if services.catalog.find(model):
        raise NotAllowed(f"Base model {model} is everybody's: only models of your own are deleted.")
    name = parse_model(model, services.settings.database, services.settings.schema_name)
    dropped = services.registry.models.drop(caller, *name)
    return {"id": dropped.model, "object": "model", "deleted": True}


def _bases(services: Services, caller: Caller) -> list[dict[str, Any]]:
    served = (services.catalog.get(name) for name in services.base_models_of(caller))
    return [{"id": base.name, "object": "model", "created": 0, "owned_by": base.hf.split("/")[0]} for base in served]


def _tuned(version: ModelVersion) -> dict[str, Any]:
    return {
        "id": version.model,
        "object": "model",
        "created": version.created_on // 1000,
        "owned_by": version.owner,
        "root": version.base_model,
    }
