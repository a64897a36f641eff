"""What every route asks for: the services, and the caller behind the key."""

import asyncio
import time
from typing import Annotated

from fastapi import Depends, Request

from luthier.errors import NotAuthenticated
from luthier.platform.access import Caller, hash_key
from luthier.serve.services import Services, Verbs

FRESH_SECONDS = 5.0
"""A revoked key works for at most so long."""
MAX_KEYS = 10_000


class KeyCheck:
    """Keys to callers, remembered for a moment; unknown keys are never remembered."""

    def __init__(self, registry: Verbs) -> None:
        self._registry = registry
        self._known: dict[str, tuple[float, Caller]] = {}

    async def caller(self, header: str | None) -> Caller:
        """`header` is Authorization: `Bearer KEY`."""
        scheme, _, key = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise NotAuthenticated("No API key. Send the header `Authorization: Bearer KEY`.")
        hashed = hash_key(key.strip())
        at, caller = self._known.get(hashed, (0.0, None))
        if caller is None or time.monotonic() - at > FRESH_SECONDS:
            self._known.pop(hashed, None)
            caller = await asyncio.to_thread(self._registry.access.authenticate, hashed)
            if len(self._known) >= MAX_KEYS:
                self._known.clear()
            self._known[hashed] = (time.monotonic(), caller)
        return caller


async def _caller(request: Request) -> Caller:
    check: KeyCheck = request.app.state.keys
    return await check.caller(request.headers.get("authorization"))


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


CallerOf = Annotated[Caller, Depends(_caller)]
ServicesOf = Annotated[Services, Depends(_services)]
