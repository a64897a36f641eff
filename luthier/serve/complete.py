"""READ FIRST: one completion, in the replica that answers it. let in -> resolve -> reserve -> generate -> settle.

The engine reserves, once it has counted the prompt. Whatever happens then (client gone, engine dead, replica stopping),
what it counted is settled, and the rest of the reservation is free again.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from luthier.errors import InvalidInput, LuthierError, RateLimited
from luthier.platform.access import Caller
from luthier.platform.base_models import BaseModel
from luthier.platform.jobs import now_ms
from luthier.platform.metering import Source, UsageRecord, completion_usage
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.prices import PriceList
from luthier.platform.rates import RateState
from luthier.platform.wire import Choice, Chunk, Usage
from luthier.serve.admission import Admission
from luthier.serve.asks import Ask, or_error
from luthier.serve.patience import patiently
from luthier.serve.resolver import Resolver

PATIENCE_SECONDS = 3600.0
"""As long as a statement may take."""


async def _freely(_prompt: int, _completion: int) -> None:
    """Whoever asks pays for it himself."""


@dataclass(slots=True)
class Tally:
    """Tokens of one completion by the engine's own counters."""

    prompt: int = 0
    completion: int = 0
    reserve: Callable[[int, int], Awaitable[None]] = field(default=_freely, compare=False)
    """Called before anything is generated, with the most tokens of prompt and answers; PaymentRequired ends it."""
    queued: float | None = field(default=None, compare=False)
    """Seconds that the engine let it wait."""
    first: float | None = field(default=None, compare=False)
    """Seconds to the first token."""

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prompt, completion_tokens=self.completion)


class Engine(Protocol):
    """Reserves by the tally, then adds to it what it hands over.

    When it is left or dies before the end, it adds what it had made by then.
    """

    async def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> list[Choice]: ...

    def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]: ...


@dataclass(slots=True)
class Visit:
    """One request from its arrival to its end."""

    ask: Ask
    is_streamed: bool
    tally: Tally = field(default_factory=Tally)
    resolved: Resolved | None = None
    finish: str | None = None
    """Why the last answer ended."""
    error: BaseException | None = None
    reservation: "Reservation | None" = None
    allowance: "Allowance | None" = None
    began: float = field(default_factory=time.monotonic)

    @property
    def version(self) -> int | None:
        """Of the tuned model that answers."""
        return self.resolved.version if self.resolved else None

    @property
    def rates(self) -> RateState | None:
        return self.allowance.state if self.allowance else None


class Billed(NamedTuple):
    """Who answered, for the bill."""

    model: str
    """By its full name."""
    version: int | None


class Reservation(Protocol):
    """Credits that one request may cost (serve/metering/leases.py)."""

    async def take(self, ucr: int) -> None: ...

    def settle(self, ucr: int) -> tuple[str, ...]: ...


class Allowance(Protocol):
    """What one request may have of a minute's requests and tokens (serve/metering/rates.py)."""

    async def take(self, tokens: int) -> None: ...

    def settle(self, tokens: int) -> None: ...

    @property
    def state(self) -> RateState | None: ...


class Books(Protocol):
    """Where credits and rates come from, usage is kept and visits are written down."""

    def check(self) -> None:
        """Unavailable while more usage waits for the ledger than may."""

    def reservation(self, caller: Caller) -> Reservation: ...

    def allowance(self, caller: Caller, resolved: Resolved, gives_way: bool) -> Allowance:
        """One that `gives_way` leaves a part of each minute to others."""

    def settle(self, record: UsageRecord) -> None: ...

    def tell(self, visit: Visit) -> None: ...


class Completer:
    """Answers for one base model."""

    def __init__(self, base: BaseModel, resolver: Resolver, engine: Engine, prices: PriceList, books: Books) -> None:
        self._base, self._resolver, self._engine, self._prices, self._books = base, resolver, engine, prices, books
        self.admission = Admission(base.engine.max_num_seqs, base.engine.max_queued)

    async def whole(self, ask: Ask, patience: float = 0.0) -> Chunk:
        """All of the answer, with its counts. Waits so many seconds for a place."""
        async with self._visit(Visit(ask, is_streamed=False), patience) as visit:
            adapter = await self._adapter(visit)
            choices = await self._engine.whole(ask, adapter, visit.tally)
            visit.finish = choices[-1].finish_reason
            return Chunk(choices=choices, usage=visit.tally.usage, version=visit.version, rates=visit.rates)

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        """All of each answer, or the error it ended in. Nobody waits for them at a socket: they wait for places."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(or_error(self._patiently(ask))) for ask in asks]
        return [task.result() for task in tasks]

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        """The answer's pieces; a last chunk without choices carries the counts of the whole."""
        async with self._visit(Visit(ask, is_streamed=True)) as visit:
            adapter, is_first = await self._adapter(visit), True
            async with aclosing(self._engine.stream(ask, adapter, visit.tally)) as pieces:
                async for choices in pieces:
                    yield Chunk(choices=choices, version=visit.version, rates=visit.rates if is_first else None)
                    is_first = False
            visit.finish = choices[-1].finish_reason
            yield Chunk(choices=[], usage=visit.tally.usage, version=visit.version)

    async def _patiently(self, ask: Ask) -> Chunk:
        return await patiently(lambda: self.whole(ask, PATIENCE_SECONDS), PATIENCE_SECONDS, RateLimited)

    @asynccontextmanager
    async def _visit(self, visit: Visit, patience: float = 0.0) -> AsyncIterator[Visit]:
        """Let in, billed and written down once, however it ends."""
        ask = visit.ask
        try:
            with ExitStack() as held:
                await patiently(lambda: self._let_in(ask, held), patience)
                if ask.is_billed:
                    visit.reservation = self._books.reservation(ask.caller)
                visit.tally.reserve = partial(self._reserve, visit)
                yield visit
        except BaseException as error:
            visit.error = error
            raise
        finally:
            self._settle(visit)
            self._books.tell(visit)
            ask.told.is_so = True
            # Both hold this visit: they would keep each other until Python looks for cycles.
            visit.error, visit.tally.reserve = None, _freely

    async def _let_in(self, ask: Ask, held: ExitStack) -> None:
        self._books.check()
        held.enter_context(self.admission.place(ask.caller.account, ask.request.num_choices))

    async def _reserve(self, visit: Visit, prompt: int, completion: int) -> None:
        visit.ask.room.close()
        if visit.allowance:
            await visit.allowance.take(prompt + completion)
        if visit.reservation:
            await visit.reservation.take(self._prices.completion_ucr(self._base.price_class, prompt, completion))

    def _settle(self, visit: Visit) -> None:
        reservation = visit.reservation
        if visit.allowance:
            visit.allowance.settle(visit.tally.prompt + visit.tally.completion)
        if reservation is None:
            return
        if not (visit.tally.prompt and visit.resolved):
            reservation.settle(0)
            return
        answered = Billed(visit.resolved.billed_as, visit.version)
        record = bill(visit.ask, self._base, answered, self._prices, visit.tally.usage)
        leases = reservation.settle(record.amount_ucr)
        self._books.settle(record.model_copy(update={"leases": leases}))

    async def _adapter(self, visit: Visit) -> ModelVersion | None:
        ask = visit.ask
        resolved = ask.resolved or await self._resolver.resolve(ask.caller, ask.request.model, ask.id, self._base.name)
        visit.resolved = resolved
        if resolved.base_model != self._base.name:
            raise InvalidInput(f"Model {resolved.name} stands on {resolved.base_model}, not on {self._base.name}.")
        visit.allowance = self._books.allowance(ask.caller, resolved, gives_way=ask.request.priority > 0)
        return resolved.adapter


def bill(ask: Ask, base: BaseModel, answered: Billed, prices: PriceList, usage: Usage) -> UsageRecord:
    """What an answer costs."""
    source = Source(
        id=ask.id,
        function=ask.function,
        base_model=base.name,
        price_class=base.price_class,
        model=answered.model,
        version=answered.version,
    )
    return completion_usage(ask.caller, source, prices, (usage.prompt_tokens, usage.completion_tokens), now_ms())
