"""Databricks' model serving: each model that answers here is a serving endpoint of its name.

Wire format: docs.databricks.com, Foundation model REST API reference, as databricks-sdk, MLflow's deployments and
OpenAI's client send and read it.
"""

import re
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from luthier.platform.base_models import BaseModel
from luthier.platform.models import ModelVersion
from luthier.serve.dialects.databricks_wire import ChatInvocation, CompletionInvocation, read_invocation, refusal
from luthier.serve.dialects.openai import Handed, body_schema, find_model, models_here
from luthier.serve.doors.bodies import ChatBody, CompletionBody
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.direct import Completing, Route, writer_of

__all__ = ["ENDPOINTS", "PREFIX", "refusal", "router"]

PREFIX = "/serving-endpoints"
ENDPOINTS = "/api/2.0/serving-endpoints"
ROUTES = {
    f"{PREFIX}/chat/completions": Route(ChatBody, "DATABRICKS_CHAT_COMPLETIONS", writer_of, refusal=refusal),
    f"{PREFIX}/completions": Route(CompletionBody, "DATABRICKS_COMPLETIONS", writer_of, refusal=refusal),
}
INVOCATIONS = re.compile(rf"{PREFIX}/(.+)/invocations")
IS_UP = {"ready": "READY", "config_update": "NOT_UPDATING"}

router = APIRouter(tags=["Databricks"])


@router.post(f"{PREFIX}/chat/completions", openapi_extra=body_schema(ChatBody))
@router.post(f"{PREFIX}/completions", openapi_extra=body_schema(CompletionBody))
async def complete(request: Request, services: ServicesOf) -> Response:
    """Answers at once, or in server-sent events where `stream` is true."""
    return Handed(Completing(services, request.app.state.keys, ROUTES[request.scope["route"].path]))


@router.post(f"{PREFIX}/{{model:path}}/invocations", openapi_extra=body_schema(ChatInvocation | CompletionInvocation))
async def invoke(model: str, request: Request, services: ServicesOf) -> Response:
    """Answers a chat, or a completion where the body has a `prompt`; as above, with the model's name in the path."""
    return Handed(Completing(services, request.app.state.keys, _invocation(model)))


@router.get(ENDPOINTS)
@router.get(f"{ENDPOINTS}/", include_in_schema=False)  # as MLflow writes it
def list_endpoints(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The base models that answer here, and the caller's tuned models: the first 10,000 by name."""
    return {"endpoints": [_endpoint(model) for model in models_here(services, caller)]}


@router.get(f"{ENDPOINTS}/{{model:path}}")
def get_endpoint(model: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return _endpoint(find_model(services, caller, model))


def route_of(path: str) -> Route | None:
    """Of a completion's path."""
    invoked = INVOCATIONS.fullmatch(path)
    return _invocation(invoked[1]) if invoked else ROUTES.get(path)


def _invocation(model: str) -> Route:
    read = partial(read_invocation, model)
    return Route(ChatInvocation, "DATABRICKS_INVOCATIONS", writer_of, read, refusal)


def _endpoint(model: BaseModel | ModelVersion) -> dict[str, Any]:
    if isinstance(model, BaseModel):
        name, more = model.name, {}
        served = {"name": name, "foundation_model": {"name": name, "description": model.description}}
    else:
        name, version = model.model, str(model.version)
        more = {"creator": model.owner, "creation_timestamp": model.created_on}
        served = {"name": f"{name}@{version}", "entity_name": name, "entity_version": version}
    return {"name": name, "state": IS_UP, "task": "llm/v1/chat", "config": {"served_entities": [served]}, **more}
