"""Snowflake's Cortex REST API: /api/v2/cortex/inference:complete, /models, and OpenAI's chat under /v1.

Wire format: cortex-inference.yaml in github.com/snowflakedb/snowflake-rest-api-specs, as snowflake.core and
snowflake.cortex send and read it.
"""

from fastapi import APIRouter, Request, Response

from luthier.serve.dialects.cortex_answer import InferenceWriter, refusal
from luthier.serve.dialects.cortex_bodies import CortexChatBody, InferenceBody, read_inference
from luthier.serve.dialects.openai import Handed, body_schema
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.direct import Completing, Route, writer_of

__all__ = ["PREFIX", "refusal", "router"]

PREFIX = "/api/v2/cortex"
# Snowflake's clients compare the type letter by letter: a charset would fail them.
INFERENCE = Route(
    InferenceBody, "CORTEX_INFERENCE", InferenceWriter, read_inference, refusal, stream_type=b"text/event-stream"
)
CHAT = Route(CortexChatBody, "CORTEX_CHAT_COMPLETIONS", writer_of)
ROUTES = {f"{PREFIX}/inference:complete": INFERENCE, f"{PREFIX}/v1/chat/completions": CHAT}

router = APIRouter(prefix=PREFIX, tags=["Snowflake Cortex"])


@router.post("/inference:complete", openapi_extra=body_schema(InferenceBody))
@router.post("/v1/chat/completions", openapi_extra=body_schema(CortexChatBody))
async def complete(request: Request, services: ServicesOf) -> Response:
    """Answers in server-sent events (inference:complete by default, /v1 where `stream` is true), or at once."""
    return Handed(Completing(services, request.app.state.keys, ROUTES[request.scope["route"].path]))


@router.get("/models")
def list_models(caller: CallerOf, services: ServicesOf) -> dict[str, list[str]]:
    """The base models that answer here, and the caller's tuned models: the first 10,000 by name."""
    tuned = [each.model for each in services.models_of(caller)]
    return {"models": [*services.base_models_of(caller), *tuned]}
