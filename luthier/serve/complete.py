"""READ FIRST: one completion, in the replica that answers it. resolve -> generate -> settle.

Whatever happens in between (client gone, engine dead, replica stopping), what the engine counted is settled.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from luthier.errors import InvalidInput
from luthier.platform.base_models import BaseModel
from luthier.platform.jobs import now_ms
from luthier.platform.metering import Source, UsageRecord, completion_usage
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.prices import PriceList
from luthier.platform.wire import Chunk, CompleteRequest, Usage
from luthier.serve.services import Ask


class Engine(Protocol):
    def generate(
        self, request_id: str, request: CompleteRequest, adapter: ModelVersion | None
    ) -> AsyncGenerator[Chunk, None]: ...


class Completer:
    """Answers for one base model."""

    def __init__(
        self, base: BaseModel, engine: Engine, prices: PriceList, settle: Callable[[UsageRecord], None]
    ) -> None:
        self._base, self._engine, self._prices, self._settle = base, engine, prices, settle

    async def complete(self, ask: Ask, resolved: Resolved) -> AsyncGenerator[Chunk, None]:
        """The answer's pieces; the last chunk carries the counts of the whole."""
        if resolved.base_model != self._base.name:
            raise InvalidInput(f"Model {resolved.name} stands on {resolved.base_model}, not on {self._base.name}.")
        num_prompt = num_completion = 0
        try:
            async with aclosing(self._engine.generate(ask.id, ask.request, resolved.adapter)) as pieces:
                async for piece in pieces:
                    assert piece.usage is not None
                    num_prompt = piece.usage.prompt_tokens
                    num_completion += piece.usage.completion_tokens
                    yield Chunk(choices=piece.choices)
            yield Chunk(choices=[], usage=Usage(prompt_tokens=num_prompt, completion_tokens=num_completion))
        finally:
            if num_prompt:
                self._settle(self._usage(ask, resolved, (num_prompt, num_completion)))

    def _usage(self, ask: Ask, resolved: Resolved, tokens: tuple[int, int]) -> UsageRecord:
        source = Source(
            id=ask.id,
            function=ask.function,
            base_model=self._base.name,
            price_class=self._base.price_class,
            model=resolved.name,
        )
        return completion_usage(ask.caller, source, self._prices, tokens, now_ms())
