"""More tuned models than an engine has slots for, some of them asked without pause."""

import asyncio
from collections.abc import Sequence

from luthier.platform.models import ModelVersion
from luthier.serve.complete import Tally
from tests.e2e.asked import Asked
from tests.e2e.live import LONG, SECONDS


async def others_that_never_cease(asked: Asked, busy: Sequence[ModelVersion], seldom: ModelVersion) -> None:
    """Who asks another model now and then is answered each time. vLLM alone would never come to him."""
    num = 0

    async def ceaseless(adapter: ModelVersion, max_tokens: int) -> None:
        nonlocal num
        while True:
            await asked.ask("whole", Tally(), adapter, max_tokens=max_tokens)
            num += 1

    # Of different lengths: there is no moment in which all of a model's answers have ended.
    asking = [asyncio.create_task(ceaseless(each, length)) for each in busy for length in (21, 34, 55, 89)]
    try:
        async with asyncio.timeout(SECONDS):
            while num < 10 * len(asking):
                await asyncio.sleep(0.01)
            before = num
            for _ in range(3):
                await asked.answer(seldom)
            while num < before + 3 * len(asking):  # nor does anybody wait for ever after it
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    asked.check_idle()


async def others_that_do_not_read(asked: Asked, slow: Sequence[ModelVersion], seldom: ModelVersion) -> None:
    """Their answers are generated, and then others have the slots, whether anybody reads them or not."""
    streams = [asked.ask("stream", Tally(), each, max_tokens=LONG) for each in slow for _ in range(3)]
    for stream in streams:
        await anext(stream)
    async with asyncio.timeout(SECONDS):
        await asked.answer(seldom)
    for stream in streams:
        await stream.aclose()
    asked.check_idle()
