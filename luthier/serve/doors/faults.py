"""The one table from errors to answers: {"error": {message, type, code, param}}, as OpenAI's clients read it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from luthier.errors import InvalidInput, LuthierError, NotFound, RateLimited
from luthier.platform.wire import ErrorBody
from luthier.serve.doors.refusals import refused_field
from luthier.serve.metering.rate_headers import refusal_headers

OPENAI = "/v1/"
"""Below it faults are told in OpenAI's words."""
FAMILIES = {402: "insufficient_quota", 429: "rate_limit_error"}
Refusal = Callable[[Request, Exception], JSONResponse]
"""A dialect's form of an error."""


def answer_errors(app: FastAPI, dialects: Mapping[str, Refusal]) -> None:
    """Gives the app this table; `dialects` have a form of their own under the paths that begin so."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException) and isinstance(error.__cause__, LuthierError):
            error = error.__cause__  # of a body: FastAPI makes its own error of each that ends the reading
        forms = (form for prefix, form in dialects.items() if request.url.path.startswith(prefix))
        return next(forms, error_response)(request, error)

    for kind in (LuthierError, RequestValidationError, ValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


class Fault(NamedTuple):
    """An error as it is told."""

    status: int
    told: ErrorBody
    headers: Mapping[str, str] = {}

    def answer(self) -> JSONResponse:
        return JSONResponse({"error": self.told.model_dump()}, self.status, self.headers)


def error_response(request: Request, error: Exception) -> JSONResponse:
    """What a request is answered that ended so."""
    return fault_of(request, error).answer()


def fault_of(request: Request, error: Exception) -> Fault:
    """Of a fault of ours the caller gets the request's id alone."""
    param = None
    if isinstance(error, RequestValidationError) and request.url.path.startswith(OPENAI) and _has_place(error):
        error = refused_field(error.errors()[0], error.body)
    elif isinstance(error, RequestValidationError | ValidationError):
        error, param = _invalid(error)
    if isinstance(error, LuthierError):
        request.state.error, request.state.reason = error.code, error.message  # for access log and audit
        return _fault(error, param)
    if isinstance(error, HTTPException):
        return _http(request, error)
    return _fault(LuthierError(f"An internal error happened. The logs have more under {request.state.id}."))


def error_body(error: LuthierError) -> dict[str, Any]:
    return {"error": _told(error).model_dump()}


def _told(error: LuthierError, param: str | None = None) -> ErrorBody:
    family = FAMILIES.get(error.http, "invalid_request_error" if error.http < 500 else "server_error")
    return ErrorBody(message=error.message, type=family, code=error.code, param=param or error.param)


def _fault(error: LuthierError, param: str | None = None) -> Fault:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, RateLimited):
        headers |= refusal_headers(error)
    return Fault(error.http, _told(error, param), headers)


def _has_place(error: RequestValidationError) -> bool:
    """Whether a field is at fault, and not the body as a whole."""
    first = error.errors()[0]
    return len(first["loc"]) > 1 and first["type"] != "json_invalid"


def _invalid(error: RequestValidationError | ValidationError) -> tuple[InvalidInput, str | None]:
    """The first fault of a body, and where it is."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return InvalidInput(f"The request body is not valid JSON: {first['ctx']['error']}."), None
    return InvalidInput(f"{where or 'body'}: {first['msg']}."), where or None


def _http(request: Request, error: HTTPException) -> Fault:
    """FastAPI's own refusals."""
    if error.status_code == 404:
        return _fault(NotFound(f"No route {request.method} {request.url.path}. /docs lists them."))
    message, code, headers = str(error.detail), str(error.status_code), error.headers or {}
    if error.status_code == 405:
        allowed = headers.get("Allow", "none")
        message = f"{request.method} does not work on {request.url.path}; allowed: {allowed}."
        code = "method_not_allowed"
    return Fault(error.status_code, ErrorBody(message=message, type="invalid_request_error", code=code), headers)
