"""The one table from errors to answers: {"error": {message, type, code, param}}, as OpenAI's clients read it."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from luthier.errors import InvalidInput, LuthierError, NotFound, RateLimited, TooLarge
from luthier.platform.wire import ErrorBody
from luthier.serve.rate_headers import refusal_headers

FAMILIES = {402: "insufficient_quota", 429: "rate_limit_error"}
Refusal = Callable[[Request, Exception], JSONResponse]
"""A dialect's form of an error."""


def answer_errors(app: FastAPI, dialects: Mapping[str, Refusal]) -> None:
    """Gives the app this table; `dialects` have a form of their own under the paths that begin so."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        forms = (form for prefix, form in dialects.items() if request.url.path.startswith(prefix))
        return next(forms, error_response)(request, error)

    for kind in (LuthierError, RequestValidationError, ValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)


def error_response(request: Request, error: Exception) -> JSONResponse:
    """What a request is answered that ended so. Of a fault of ours the caller gets the request's id alone."""
    param = None
    if isinstance(error, RequestValidationError | ValidationError):
        error, param = _invalid(error)
    if isinstance(error, LuthierError):
        request.state.error, request.state.reason = error.code, error.message  # for access log and audit
        return _response(error, param)
    if isinstance(error, HTTPException):
        return _http(request, error)
    return _response(LuthierError(f"An internal error happened. The logs have more under {request.state.id}."))


def error_body(error: LuthierError, param: str | None = None) -> dict[str, Any]:
    family = FAMILIES.get(error.http, "invalid_request_error" if error.http < 500 else "server_error")
    body = ErrorBody(message=error.message, type=family, code=error.code, param=param or error.param)
    return {"error": body.model_dump()}


def _response(error: LuthierError, param: str | None = None) -> JSONResponse:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, RateLimited):
        headers |= refusal_headers(error)
    return JSONResponse(error_body(error, param), status_code=error.http, headers=headers)


def _invalid(error: RequestValidationError | ValidationError) -> tuple[InvalidInput, str | None]:
    """The first fault of a body, and where it is."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return InvalidInput(f"The request body is not valid JSON: {first['ctx']['error']}."), None
    return InvalidInput(f"{where or 'body'}: {first['msg']}."), where or None


def _http(request: Request, error: HTTPException) -> JSONResponse:
    """FastAPI's own refusals."""
    if error.status_code == 404:
        return _response(NotFound(f"No route {request.method} {request.url.path}. /docs lists them."))
    if error.status_code == 413:
        return _response(TooLarge(error.detail))
    message, code = str(error.detail), str(error.status_code)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "none")
        message, code = (
            f"{request.method} does not work on {request.url.path}; allowed: {allowed}.",
            "method_not_allowed",
        )
    body = ErrorBody(message=message, type="invalid_request_error", code=code)
    return JSONResponse({"error": body.model_dump()}, status_code=error.status_code, headers=error.headers)
