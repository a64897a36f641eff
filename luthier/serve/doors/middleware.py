"""What wraps every route: a request's id, and its line in the access log.

Pure ASGI: no body is buffered here.
"""

import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.errors import LuthierError
from luthier.platform.access import Caller
from luthier.platform.request_ids import request_id
from luthier.serve.metering.access_log import CLIENT_GONE, AccessLog, Line


class RequestId:
    """Names the request, as `request.state.id` and in the header of the answer."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        """`secret`: who shows it has named the request."""
        self._app, self._secret = app, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = request_id(scope["headers"], self._secret)
            scope.setdefault("state", {})["id"] = named
            send = _naming(send, named)
        await self._app(scope, receive, send)


class Logged:
    """Writes each request down when it has ended, unless whoever answered has done so. It wants the request's id."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), CLIENT_GONE

        async def send_seen(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            status = LuthierError.http
            raise
        finally:
            if not scope["state"].get("is_told"):
                self._log.add(_line(scope, status, time.monotonic() - began))


def _line(scope: Scope, status: int, seconds: float) -> Line:
    """Without the query, which may hold anything."""
    state = scope["state"]
    caller: Caller | None = state.get("caller")
    return {
        "id": state["id"],
        "account": caller and caller.account,
        "user": caller and caller.user,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "error": state.get("error"),
        "ms": round(seconds * 1000, 1),
    }


def _naming(send: Send, named: str) -> Send:
    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", named.encode())]}
        await send(message)

    return send_named
