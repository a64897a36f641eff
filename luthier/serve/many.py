"""A request for answers to several prompts, asked one by one: the choices of all are numbered through.

Greedy choices are asked one by one too: vLLM makes no two of a prompt. None is begun before all were checked and what
they can come to is reserved, as one.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from luthier.platform.models import ModelVersion
from luthier.platform.wire import Choice, CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.complete import Engine, Tally


@dataclass
class _Part:
    """One prompt's share, or a greedy choice's."""

    ask: Ask
    prompt: int
    """Its number: choices of one prompt count it once."""
    first: int
    """The number of its first choice."""
    tally: Tally

    def numbered(self, choices: list[Choice]) -> list[Choice]:
        return [choice.model_copy(update={"index": choice.index + self.first}) for choice in choices]


class _Together:
    """What the parts of a request reserve: all of it when the last one asks, and none goes on before."""

    def __init__(self, num: int, tally: Tally) -> None:
        self._num_left, self._reserve = num, tally.reserve
        self._prompts: dict[int, int] = {}
        self._completion = 0
        self._is_reserved = asyncio.Event()

    def of(self, prompt: int) -> Callable[[int, int], Awaitable[None]]:
        """As a tally's `reserve`, of a part with that prompt."""

        async def reserve(num_prompt: int, num_completion: int) -> None:
            self._prompts[prompt] = num_prompt
            self._completion += num_completion
            self._num_left -= 1
            if self._num_left:
                await self._is_reserved.wait()
            else:
                await self._reserve(sum(self._prompts.values()), self._completion)
                self._is_reserved.set()

        return reserve


class Many:
    """An engine in front of another, which gets one prompt at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> Coroutine[Any, Any, list[Choice]]:
        if _is_one(ask.request):
            return self._engine.whole(ask, adapter, tally)
        return self._whole(_parts(ask, tally), adapter, tally)

    def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]:
        if _is_one(ask.request):
            return self._engine.stream(ask, adapter, tally)
        return self._stream(_parts(ask, tally), adapter, tally)

    async def _whole(self, parts: list[_Part], adapter: ModelVersion | None, tally: Tally) -> list[Choice]:
        async def answer(part: _Part) -> list[Choice]:
            return part.numbered(await self._engine.whole(part.ask, adapter, part.tally))

        tasks = [asyncio.create_task(answer(part)) for part in parts]
        async with _ended(tasks, parts, tally):
            return [choice for choices in await asyncio.gather(*tasks) for choice in choices]

    async def _stream(
        self, parts: list[_Part], adapter: ModelVersion | None, tally: Tally
    ) -> AsyncGenerator[list[Choice], None]:
        pieces: asyncio.Queue[list[Choice] | Exception | None] = asyncio.Queue(maxsize=1)

        async def answer(part: _Part) -> None:
            try:
                async with aclosing(self._engine.stream(part.ask, adapter, part.tally)) as own:
                    async for choices in own:
                        await pieces.put(part.numbered(choices))
                await pieces.put(None)
            except Exception as error:  # whoever waits for the pieces raises it
                await pieces.put(error)

        tasks = [asyncio.create_task(answer(part)) for part in parts]
        async with _ended(tasks, parts, tally):
            num_open = len(parts)
            while num_open:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                if piece is None:
                    num_open -= 1
                else:
                    yield piece


@asynccontextmanager
async def _ended(tasks: list[asyncio.Task[Any]], parts: list[_Part], tally: Tally) -> AsyncIterator[None]:
    """Whatever ends the block ends the tasks, and the tally has the tokens of all."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        try:
            await asyncio.wait(tasks)
        finally:
            _add_up(parts, tally)


def _add_up(parts: list[_Part], tally: Tally) -> None:
    tally.prompt += sum({part.prompt: part.tally.prompt for part in parts if part.tally.prompt}.values())
    tally.completion += sum(part.tally.completion for part in parts)
    tally.queued = min((queued for part in parts if (queued := part.tally.queued) is not None), default=None)
    tally.first = min((first for part in parts if (first := part.tally.first) is not None), default=None)


def _is_one(request: CompleteRequest) -> bool:
    return request.prompts is None and (request.n == 1 or request.temperature > 0)


def _parts(ask: Ask, tally: Tally) -> list[_Part]:
    request = ask.request
    times, n = (request.n, 1) if request.temperature == 0 else (1, request.n)
    given = [request.prompt] if request.prompts is None else request.prompts
    asked = [request.model_copy(update={"prompt": prompt, "prompts": None, "n": n}) for prompt in given]
    parts = [(number, each) for number, each in enumerate(asked) for _ in range(times)]
    together = _Together(len(parts), tally)
    return [
        _Part(replace(ask, id=f"{ask.id}-{at}", request=each), number, at * n, Tally(reserve=together.of(number)))
        for at, (number, each) in enumerate(parts)
    ]
