"""READ FIRST: one completion, in the replica that answers it. resolve -> generate -> settle.

Whatever happens in between (client gone, engine dead, replica stopping), what the engine counted is settled.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from luthier.errors import InvalidInput
from luthier.platform.base_models import BaseModel
from luthier.platform.jobs import now_ms
from luthier.platform.metering import Source, UsageRecord, completion_usage
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.prices import PriceList
from luthier.platform.wire import Choice, Chunk, CompleteRequest, Usage
from luthier.serve.adapters import Resolver
from luthier.serve.services import Ask


@dataclass(slots=True)
class Tally:
    """Tokens of one completion by the engine's own counters."""

    prompt: int = 0
    completion: int = 0

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt, completion_tokens=self.completion)


class Engine(Protocol):
    """Adds to the tally what it hands over, and, when it is left or dies before the end, what it had made by then."""

    async def whole(
        self, request_id: str, request: CompleteRequest, adapter: ModelVersion | None, tally: Tally
    ) -> list[Choice]: ...

    def stream(
        self, request_id: str, request: CompleteRequest, adapter: ModelVersion | None, tally: Tally
    ) -> AsyncGenerator[list[Choice], None]: ...


class Completer:
    """Answers for one base model."""

    def __init__(
        self,
        base: BaseModel,
        resolver: Resolver,
        engine: Engine,
        prices: PriceList,
        settle: Callable[[UsageRecord], None],
    ) -> None:
        self._base, self._resolver, self._engine, self._prices, self._settle = base, resolver, engine, prices, settle

    async def whole(self, ask: Ask) -> Chunk:
        """All of the answer, with its counts."""
        resolved = await self._resolver.resolve(ask.caller, ask.request.model)
        with self._billed(ask, resolved) as tally:
            choices = await self._engine.whole(ask.id, ask.request, resolved.adapter, tally)
            return Chunk(choices=choices, usage=tally.usage)

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        """The answer's pieces; a last chunk without choices carries the counts of the whole."""
        resolved = await self._resolver.resolve(ask.caller, ask.request.model)
        with self._billed(ask, resolved) as tally:
            async with aclosing(self._engine.stream(ask.id, ask.request, resolved.adapter, tally)) as pieces:
                async for choices in pieces:
                    yield Chunk(choices=choices)
            yield Chunk(choices=[], usage=tally.usage)

    @contextmanager
    def _billed(self, ask: Ask, resolved: Resolved) -> Iterator[Tally]:
        if resolved.base_model != self._base.name:
            raise InvalidInput(f"Model {resolved.name} stands on {resolved.base_model}, not on {self._base.name}.")
        tally = Tally()
        try:
            yield tally
        finally:
            if tally.prompt:
                self._settle(self._usage(ask, resolved, tally))

    def _usage(self, ask: Ask, resolved: Resolved, tally: Tally) -> UsageRecord:
        source = Source(
            id=ask.id,
            function=ask.function,
            base_model=self._base.name,
            price_class=self._base.price_class,
            model=resolved.name,
        )
        return completion_usage(ask.caller, source, self._prices, (tally.prompt, tally.completion), now_ms())
