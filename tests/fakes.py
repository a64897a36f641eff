"""Doubles: a clock, a launcher that only keeps a list, a deterministic engine, and completions without Ray Serve."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest

from luthier.errors import ContextTooLong, LuthierError, Unavailable
from luthier.platform.access import Caller
from luthier.platform.base_models import load_catalog
from luthier.platform.metering import UsageRecord
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.prices import load_prices
from luthier.platform.queue import Capacity
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.wire import Choice, Chunk, CompleteRequest, TokenLogprob, ToolCall
from luthier.serve.adapters.adapter_stats import AdapterStats
from luthier.serve.admission import Admission
from luthier.serve.asks import Ask
from luthier.serve.complete import Allowance, Completer, Reservation, Tally, Visit
from luthier.serve.engines.tool_calls import ForcedCalls
from luthier.serve.known import Epoch
from luthier.serve.many import Many
from luthier.serve.metering.access_log import Line
from luthier.serve.metering.books import line_of
from luthier.serve.metering.leases import Leases
from luthier.serve.metering.rates import Rates
from luthier.serve.resolver import Resolver
from tests.factories import ADMIN


def make_ask(caller: Caller = ADMIN, **given: Any) -> Ask:
    request = CompleteRequest.model_validate({"model": "tiny", **given})
    return Ask("req_1", caller, "COMPLETE", "tiny", request)


class Clock:
    """A test turns it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Way:
    """To a registry. What is asked is counted; a test shuts it: nothing is answered; or says that it is away."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.asked: Counter[str] = Counter()
        self.is_away = False
        self._is_open = threading.Event()
        self._is_open.set()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """What was asked meanwhile is answered at the end."""
        self._is_open.clear()
        try:
            yield
        finally:
            self._is_open.set()

    def __getattr__(self, part: str) -> "_PartOfWay":
        return _PartOfWay(self, part)

    def call(self, part: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.asked[f"{part}.{verb}"] += 1
        assert self._is_open.wait(60)
        if self.is_away:
            raise Unavailable("The registry does not answer.")
        return getattr(getattr(self._registry, part), verb)(*args, **kwargs)


class _PartOfWay:
    def __init__(self, way: Way, part: str) -> None:
        self._way, self._part = way, part

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._way.call(self._part, verb, args, kwargs)


class Launcher:
    """Supervisors are names in a set; a test loses one by taking its name out."""

    def __init__(self, num_jobs: int = 1, num_workers: int = 4) -> None:
        self.num_jobs, self.num_workers = num_jobs, num_workers
        self.unit: Literal["GPU", "CPU"] = "CPU"
        self.memory: int | None = None
        self.alive: set[str] = set()

    def capacity(self) -> Capacity:
        return Capacity(jobs=self.num_jobs, workers=self.num_workers, unit=self.unit, memory=self.memory)

    def is_alive(self, job_id: str) -> bool:
        return job_id in self.alive

    def launch(self, job_id: str, capacity: Capacity) -> None:
        self.alive.add(job_id)

    def stop(self, job_id: str) -> None:
        self.alive.discard(job_id)


class EchoEngine:
    """Answers `<adapter or base>: <last message>`, a word at a time; a word is a token.

    Asked for JSON, it answers the last message alone.
    """

    def __init__(self, context: int = 512) -> None:
        self._context = context
        self.dies_after: int | None = None
        """Pieces after which the engine dies."""
        self.hangs_after: int | None = None
        """Pieces after which nothing more comes."""
        self.says: str | None = None
        """Instead of the echo."""
        self.asks: list[Ask] = []
        self.num_open = self.num_hanging = 0
        self.num_made = 0
        """Tokens."""

    @property
    def requests(self) -> list[CompleteRequest]:
        return [ask.request for ask in self.asks]

    async def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> list[Choice]:
        pieces = [piece async for (piece,) in self.stream(ask, adapter, tally)]
        return [_joined([piece for piece in pieces if piece.index == index]) for index in range(ask.request.n)]

    async def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]:
        request = ask.request
        self.asks.append(ask)
        prompt = request.messages[-1]["content"] if request.messages else request.prompt or ""
        prompt = " ".join(map(str, prompt)) if isinstance(prompt, list) else prompt
        num_prompt = len(prompt.split())
        if num_prompt + (request.max_tokens or 1) > self._context:
            raise ContextTooLong(
                f"The context window is {self._context} tokens.", limit=self._context, param="messages"
            )
        await tally.reserve(num_prompt, (request.max_tokens or self._context - num_prompt) * request.n)
        self.num_open += 1
        try:
            name = f"{adapter.model if adapter else 'base'}: " if request.json_schema is None else ""
            words = (self.says or f"{name}{prompt}").split()
            pieces = [piece for index in range(request.n) for piece in _pieces(index, words, request)]
            for number, piece in enumerate(pieces):
                if number == self.dies_after:
                    raise Unavailable("The engine stopped while it answered.")
                if number == self.hangs_after:
                    self.num_hanging += 1
                    await asyncio.Event().wait()
                self.num_made += 1
                tally.prompt, tally.completion = num_prompt, tally.completion + 1
                yield [piece]
        except (asyncio.CancelledError, GeneratorExit):
            tally.prompt = num_prompt
            raise
        finally:
            self.num_open -= 1


def _pieces(index: int, words: list[str], request: CompleteRequest) -> list[Choice]:
    kept, finish = words[: request.max_tokens], "stop"
    if len(kept) < len(words):
        finish = "length"
    for at, word in enumerate(kept):
        if word in request.stop:
            kept, finish = kept[:at], "stop"
            break
    calls = ForcedCalls() if request.tools else None
    return [
        _piece(index, at, word, finish if at == len(kept) - 1 else None, (request, calls))
        for at, word in enumerate(kept)
    ]


def _piece(
    index: int, at: int, word: str, finish: str | None, how: tuple[CompleteRequest, ForcedCalls | None]
) -> Choice:
    request, calls = how
    text = word if at == 0 else f" {word}"
    tops = tuple((f"{text}{rank}", -1.0 - rank) for rank in range(request.logprobs or 0))
    logprobs = [TokenLogprob(text, -0.5, tops)] if request.logprobs is not None else None
    text, made = calls.read(text, [], finish is not None) if calls else (text, None)
    return Choice(index=index, text=text, finish_reason=finish, tool_calls=made, logprobs=logprobs)


def _joined(pieces: list[Choice]) -> Choice:
    calls: dict[int, ToolCall] = {}
    for call in (call for piece in pieces for call in piece.tool_calls or ()):
        first = calls.setdefault(call.index, call)
        if first is not call:
            calls[call.index] = first.model_copy(update={"arguments": first.arguments + call.arguments})
    logprobs = [each for piece in pieces for each in piece.logprobs or ()]
    return Choice(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        finish_reason=pieces[-1].finish_reason,
        tool_calls=list(calls.values()) or None,
        logprobs=logprobs or None,
    )


class Free:
    """A reservation where nothing is limited."""

    async def take(self, ucr: int) -> None: ...

    def settle(self, ucr: int) -> tuple[str, ...]:
        return ()


class Boundless:
    """An allowance where no rate is limited."""

    state = None

    async def take(self, tokens: int) -> None: ...

    def settle(self, tokens: int) -> None: ...


class Books:
    """Hands usage on at once, and keeps what was written down."""

    def __init__(
        self, settle: Callable[[UsageRecord], object], leases: Leases | None = None, rates: Rates | None = None
    ) -> None:
        self._settle, self._leases, self._rates = settle, leases, rates
        self.is_full = False
        self.lines: list[Line] = []

    def check(self) -> None:
        if self.is_full:
            raise Unavailable("The ledger is away.")

    def reservation(self, caller: Caller) -> Reservation:
        return self._leases.open(caller) if self._leases else Free()

    def allowance(self, caller: Caller, resolved: Resolved, gives_way: bool) -> Allowance:
        return self._rates.open(caller, resolved, gives_way) if self._rates else Boundless()

    def settle(self, record: UsageRecord) -> None:
        self._settle(record)

    def tell(self, visit: Visit) -> None:
        self.lines.append(line_of(visit))


class LocalCompletions:
    """What the engines' replicas do, in this process: resolve, complete, settle straight into the ledger."""

    def __init__(self, settings: Settings, registry: Registry, engine: EchoEngine, epoch: Epoch | None = None) -> None:
        """`epoch` is that of the door, where one process has both."""
        epoch = epoch or Epoch(registry.versions.epoch)
        catalog, prices = load_catalog(settings), load_prices(configs_dir() / "prices.toml")
        self.is_ready = True
        self.warmed: list[int] = []
        self.broken: set[int] = set()
        """Numbers of versions that no engine can load."""
        self.leases = Leases(registry.credits, f"replica_{id(self)}", epoch.clock)
        self.rates = Rates(registry.rates, f"replica_{id(self)}", epoch.clock)
        self.books = Books(lambda record: registry.ledger.append([record]), self.leases, self.rates)
        self.stats: list[AdapterStats] = []
        resolver = Resolver(settings, catalog, registry.versions, epoch)
        self._completers = {base.name: Completer(base, resolver, Many(engine), prices, self.books) for base in catalog}

    def admission(self, base_model: str) -> Admission:
        return self._completers[base_model].admission

    async def adapters(self) -> list[AdapterStats]:
        return self.stats

    async def whole(self, ask: Ask) -> Chunk:
        return await self._completers[ask.base_model].whole(ask)

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        return await self._completers[asks[0].base_model].many(asks)

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._completers[ask.base_model].stream(ask)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def warm(self, version: ModelVersion) -> None:
        if version.number in self.broken:
            raise Unavailable(f"The adapter of model {version.model} is missing in storage.")
        self.warmed.append(version.version)

    async def ready(self) -> dict[str, bool]:
        return dict.fromkeys(self._completers, self.is_ready)


def failing_reads(patch: pytest.MonkeyPatch, file: Path, code: int) -> None:
    """Storage that does not open one of its files, as the kernel says it."""
    opened = Path.open

    def fails(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == file:
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, *args, **kwargs)

    patch.setattr(Path, "open", fails)


@contextmanager
def hanging_storage() -> Iterator[list[Path]]:
    """Storage on the disk's file system that gives no file until this ends; the folders that were asked, in turn."""
    asked, goes_on, link = list[Path](), threading.Event(), os.link

    def hang(file: Path, to: Path) -> None:
        asked.append(file.parent)
        goes_on.wait()
        link(file, to)

    with mock.patch.object(os, "link", hang):
        try:
            yield asked
        finally:
            goes_on.set()
