"""What vLLM has against a request, as our own errors."""

import re
from typing import Any

from luthier.errors import InvalidValue
from luthier.platform.wire import CompleteRequest
from luthier.serve.doors.refusals import invalid, invalid_schema


def client_error() -> type[Exception]:
    """What vLLM raises before it begins."""
    from vllm.exceptions import VLLMClientError

    error: type[Exception] = VLLMClientError
    return error


def refused(error: Exception, request: CompleteRequest) -> InvalidValue:
    """An error of `client_error`, without the place in vLLM's libraries that it comes from."""
    told = re.sub(r"\[[\d:]+\] \S+: ", "", str(error.args[0])).strip().rstrip(".")
    param, reason = getattr(error, "parameter", None), " ".join(told.split())
    if not param and request.json_schema is not None:
        return invalid_schema(_of_schema(request), reason)
    return invalid(param or ("prompt" if request.messages is None else "messages"), reason)


def check_grammar(output: Any, request: CompleteRequest) -> None:
    """vLLM compiles a grammar when the request has begun, and then says no more than that it failed."""
    if any(each.finish_reason == "error" for each in output.outputs):
        raise invalid_schema(_of_schema(request), "the engine cannot hold an answer to this schema")


def _of_schema(request: CompleteRequest) -> str:
    return "tools" if request.tools else "response_format"
