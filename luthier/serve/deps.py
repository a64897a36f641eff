"""What every route asks for: the services, and the caller behind the key."""

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from luthier.errors import NotAuthenticated
from luthier.platform.access import Caller, hash_key
from luthier.serve.remember import Remembered
from luthier.serve.services import Services, Verbs

SOFT_SECONDS, FRESH_SECONDS = 2.5, 5.0
"""A revoked key works for at most FRESH_SECONDS."""


ROLE_HEADERS = ("luthier-role", "x-snowflake-role")
"""Name the role to act in, of those that the key's user has; without them it is the key's."""


class KeyCheck:
    """Keys to callers, remembered for a moment; unknown keys are never remembered."""

    def __init__(self, registry: Verbs, clock: Callable[[], float] = time.monotonic) -> None:
        def ask(asked: tuple[str, str | None]) -> Caller:
            return registry.access.authenticate(*asked)

        self._callers = Remembered(ask, SOFT_SECONDS, FRESH_SECONDS, clock)

    async def caller(self, header: str | None, role: str | None = None) -> Caller:
        """`header` is Authorization: `Bearer KEY`, or `Snowflake Token="KEY"` as Snowflake's clients send it.

        `role` is one of the user's to act in, as written.
        """
        key = _key(header or "")
        if not key:
            raise NotAuthenticated("No API key. Send the header `Authorization: Bearer KEY`.")
        return await self._callers.get((hash_key(key), role or None))


def _key(header: str) -> str:
    scheme, _, given = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip()
        case "snowflake":
            name, _, token = given.strip().partition("=")
            return token.strip('"') if name.lower() == "token" else ""
    return ""


async def _caller(request: Request) -> Caller:
    check: KeyCheck = request.app.state.keys
    headers = request.headers
    role = next((headers[name] for name in ROLE_HEADERS if headers.get(name)), None)
    request.state.caller = caller = await check.caller(headers.get("authorization"), role)
    return caller


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


CallerOf = Annotated[Caller, Depends(_caller)]
ServicesOf = Annotated[Services, Depends(_services)]
