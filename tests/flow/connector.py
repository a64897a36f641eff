"""The protocol of Snowflake's connector 4, as much as a session needs: its sign-in, and queries handed on as SQL."""

import gzip
import json
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.factories import KEY

PREFIXES = ("/session", "/telemetry", "/queries")


def behind_connector(app: ASGIApp) -> ASGIApp:
    """Whoever signs in has the admin's key."""

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if not path.startswith(PREFIXES):
            await app(scope, receive, send)
            return
        told: dict[str, Any] = {"success": True, "data": None}
        if path == "/session/v1/login-request":
            told["data"] = {"token": KEY, "masterToken": "m", "sessionId": 1, "parameters": []}
        elif path == "/queries/v1/query-request":
            body = await Request(scope, receive).body()
            plain = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
            told = await _queried(app, json.loads(plain)["sqlText"])
        await JSONResponse(told)(scope, receive, send)

    return front


async def _queried(app: ASGIApp, statement: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://luthier", headers=headers
    ) as client:
        answer = await client.post("/luthier/v1/sql", json={"statement": statement})
    told = answer.json()
    if answer.is_error:
        return {"success": False, "code": "002003", "message": told["error"]["message"], "data": None}
    text = {"type": "text", "length": None, "precision": None, "scale": None, "nullable": True}
    rows = [[None if value is None else str(value) for value in row] for row in told["rows"]]
    return {"success": True, "data": {"rowtype": [{"name": n, **text} for n in told["columns"]], "rowset": rows}}
