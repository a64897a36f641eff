"""The HTTP app: routes of all dialects, one table of errors, a request id on every answer. Runs without Ray."""

from collections.abc import Callable
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from luthier.errors import InvalidInput, LuthierError, NotFound, TooLarge, Unavailable
from luthier.platform.settings import Settings
from luthier.platform.wire import ErrorBody
from luthier.serve.deps import KeyCheck
from luthier.serve.dialects import native, openai
from luthier.serve.middleware import BodyLimit, RequestId
from luthier.serve.services import Services

UPLOAD_PATHS = ("/luthier/v1/tables", "/luthier/v1/models")
"""Here a body is a file."""


def build_api(services: Services) -> FastAPI:
    app = FastAPI(title="Luthier", version=version("luthier"), description="Fine-tune and serve language models.")
    app.state.services = services
    app.state.keys = KeyCheck(services.registry)
    app.add_middleware(BodyLimit, limit_mib=_limits(services.settings))
    app.add_middleware(RequestId)
    app.include_router(native.router)
    app.include_router(openai.router)
    app.add_exception_handler(LuthierError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(ValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_fault)
    return app


def error_response(error: LuthierError, param: str | None = None) -> JSONResponse:
    """{"error": {message, type, code, param}}: the form that OpenAI's clients read, and ours."""
    family = "invalid_request_error" if error.http < 500 else "server_error"
    body = ErrorBody(message=error.message, type=family, code=error.code, param=param)
    headers = {"Retry-After": "2"} if isinstance(error, Unavailable) else None
    return JSONResponse({"error": body.model_dump()}, status_code=error.http, headers=headers)


def _limits(settings: Settings) -> Callable[[str], int]:
    return lambda path: settings.max_upload_mib if path in UPLOAD_PATHS else settings.max_body_mib


async def _answer_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, LuthierError)
    return error_response(error)


async def _answer_validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError | ValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return error_response(InvalidInput(f"The request body is not valid JSON: {first['ctx']['error']}."))
    return error_response(InvalidInput(f"{where or 'body'}: {first['msg']}."), param=where or None)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(NotFound(f"No route {request.method} {request.url.path}. /docs lists them."))
    if error.status_code == 413:
        return error_response(TooLarge(error.detail))
    message, code = str(error.detail), str(error.status_code)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "none")
        message, code = (
            f"{request.method} does not work on {request.url.path}; allowed: {allowed}.",
            "method_not_allowed",
        )
    body = ErrorBody(message=message, type="invalid_request_error", code=code)
    return JSONResponse({"error": body.model_dump()}, status_code=error.status_code, headers=error.headers)


async def _answer_fault(request: Request, _error: Exception) -> JSONResponse:
    """A fault of ours: the trace goes to the log (the server raises it again), the caller gets the request id."""
    return error_response(LuthierError(f"An internal error happened. The logs have more under {request.state.id}."))
