"""OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models.

Wire format: platform.openai.com/docs/api-reference, as the official Python client 3.x sends and reads it.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.errors import ModelNotFound, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel
from luthier.platform.models import ModelVersion
from luthier.serve.doors.bodies import ChatBody, CompletionBody
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.direct import ROUTES, Completing
from luthier.serve.services import Services

router = APIRouter(prefix="/v1", tags=["OpenAI"])


class Handed(Response):
    """What a bare ASGI app answers."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def body_schema(kind: Any) -> dict[str, Any]:
    """For the API's documentation: a bare ASGI app has no declared body. `kind` is a body's type, or several."""
    schema = TypeAdapter(kind).json_schema()
    content = {"application/json": {"schema": _written_out(schema, schema.get("$defs", {}))}}
    return {"requestBody": {"required": True, "content": content}}


def _written_out(schema: Any, defs: dict[str, Any]) -> Any:
    """Without references, which would be looked for in the whole document."""
    if isinstance(schema, list):
        return [_written_out(each, defs) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if ref := schema.get("$ref"):
        return _written_out(defs[ref.removeprefix("#/$defs/")], defs)
    return {key: _written_out(each, defs) for key, each in schema.items() if key not in ("$defs", "discriminator")}


@router.post("/chat/completions", openapi_extra=body_schema(ChatBody))
@router.post("/completions", openapi_extra=body_schema(CompletionBody))
async def complete(request: Request, services: ServicesOf) -> Response:
    """Answers at once, or in server-sent events where `stream` is true."""
    return Handed(Completing(services, request.app.state.keys, ROUTES[request.scope["route"].path]))


@router.get("/models")
def list_models(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The base models that answer here, and the caller's tuned models: the first 10,000 by name."""
    return {"object": "list", "data": [_shown(model) for model in models_here(services, caller)]}


@router.get("/models/{model:path}")
def get_model(model: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return _shown(find_model(services, caller, model))


@router.delete("/models/{model:path}")
def delete_model(model: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Forgets a tuned model, or the version in the name; the name in the answer is the whole one."""
    if services.catalog.find(model):
        raise NotAllowed(f"Base model {model} is everybody's: only models of your own are deleted.")
    dropped = services.registry.models.drop(caller, *services.model_name(model))
    return {"id": dropped.model, "object": "model", "deleted": True}


def models_here(services: Services, caller: Caller) -> list[BaseModel | ModelVersion]:
    """What answers here and may be asked. Blocks."""
    return [*_bases(services, caller), *services.models_of(caller)]


def find_model(services: Services, caller: Caller, name: str) -> BaseModel | ModelVersion:
    """One of them. Blocks."""
    for base in _bases(services, caller):
        if base.name == name:
            return base
    version = services.registry.models.get(caller, *services.model_name(name))
    if not services.answers_for(version):
        raise ModelNotFound(
            f"Model {version.model} stands on {version.base_model}, which does not answer here.", param="model"
        )
    return version


def _bases(services: Services, caller: Caller) -> list[BaseModel]:
    return [services.catalog.get(name) for name in services.base_models_of(caller)]


def _shown(model: BaseModel | ModelVersion) -> dict[str, Any]:
    if isinstance(model, BaseModel):
        return {"id": model.name, "object": "model", "created": 0, "owned_by": model.hf.split("/")[0]}
    return {
        "id": model.model,
        "object": "model",
        "created": model.created_on // 1000,
        "owned_by": model.owner,
        "root": model.base_model,
    }
