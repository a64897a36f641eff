"""What Databricks' clients send to an endpoint that its path names, and the form in which they read errors."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from luthier.errors import RateLimited
from luthier.serve.doors.bodies import Body, ChatBody, CompletionBody, ModelName
from luthier.serve.doors.faults import fault_of
from luthier.serve.doors.refusals import invalid, parsed, read_body, read_said

PROMPT = b'"prompt"'
"""A body that has it nowhere need not be parsed to be known for a chat."""
BAD_REQUEST = 400
CODES = {
    BAD_REQUEST: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
"""Databricks' words, by which its client chooses the exception; for other statuses it has none, and ours stands."""


class ChatInvocation(ChatBody):
    model: ModelName = ""
    """The path says it."""


class CompletionInvocation(CompletionBody):
    model: ModelName = ""


def read_invocation(model: str, _kind: type[Any], body: bytes) -> Body:
    """What is asked of the endpoint `model`: a completion where there is a `prompt`, else a chat."""
    asked = _completion_or_chat(body) if PROMPT in body else read_body(ChatInvocation, body)
    if asked.model not in ("", model):
        raise invalid("model", f"the path asks endpoint {model}; leave it out")
    return asked.model_copy(update={"model": model})


def _completion_or_chat(body: bytes) -> Body:
    """A chat where `prompt` stands deeper, as in its tool. What is right is parsed no second time."""
    try:
        return CompletionInvocation.model_validate_json(body)
    except ValidationError:
        said = parsed(body)
    if isinstance(said, dict) and said.get("prompt", 0) is None:
        del said["prompt"]
    is_completion = isinstance(said, dict) and "prompt" in said
    return read_said(CompletionInvocation if is_completion else ChatInvocation, said)


def refusal(request: Request, error: Exception) -> JSONResponse:
    """What everybody is answered, in Databricks' form, with our own code beside it.

    databricks-sdk asks again for minutes after a 429: what no minute has room for is a 400.
    """
    status, told, headers = fault_of(request, error)
    if isinstance(error, RateLimited) and error.is_final:
        status = BAD_REQUEST
    code = CODES.get(status, told.code.upper())
    return JSONResponse({"error_code": code, "message": told.message, "code": told.code}, status, headers)
