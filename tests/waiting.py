"""Tests wait until something is so, and never longer than SECONDS."""

import asyncio
from collections.abc import Callable
from typing import Any

SECONDS = 60.0


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not check():
            await asyncio.sleep(0.005)


def wait_for(check: Callable[[], Any]) -> None:
    asyncio.run(until(check))
