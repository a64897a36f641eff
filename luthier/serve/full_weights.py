"""Models with weights of their own: each version has an engine to itself, loaded when it is asked and for as long.

What runs is known to the applications alone: any process may load one or make room for it, and after the end of
everything the next request loads it again.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from luthier.errors import AdapterRefused, LuthierError, Unavailable
from luthier.platform.jobs import now_ms
from luthier.platform.models import ModelVersion, ProofState, Resolved
from luthier.platform.options import Method
from luthier.platform.wire import Chunk
from luthier.serve.adapters.adapter_stats import AdapterStats
from luthier.serve.adapters.loading import RETRY_SECONDS
from luthier.serve.adapters.proof import refusal
from luthier.serve.admission import Admission
from luthier.serve.asks import Ask, Completions, or_error
from luthier.serve.complete import PATIENCE_SECONDS
from luthier.serve.patience import patiently
from luthier.serve.remember import beside
from luthier.serve.services import Services
from luthier.serve.threads import CONTROLLER, REGISTRY, STORAGE

PREFIX = "full-"
"""Begins the names of their applications."""
AWAKE_SECONDS = 1.0
"""How long an engine that answered is taken to be there."""
BUSY_SECONDS = 10.0
"""An engine that answered within this time does not make room for another."""
NEW_SECONDS = 60.0
"""By then an application has its first replica; one that has none any more is given up when another one starts."""
ANSWER_SECONDS = 2.0
"""An engine that does not tell by then is busy, or being loaded."""


@dataclass(frozen=True)
class State:
    """Of an application."""

    num_replicas: int
    """Those that start, too."""
    age_s: float = 0.0
    """Since it was deployed."""
    failure: str | None = None


class Engine(Protocol):
    """The application of one version."""

    async def whole(self, ask: Ask) -> Chunk: ...

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]: ...

    def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]: ...

    async def idle_seconds(self) -> float:
        """AdapterRefused when it does not serve its version."""


class Applications(Protocol):
    """Those of versions with weights of their own. All but `engine` block."""

    def states(self) -> dict[str, State]: ...

    def memory(self, version: ModelVersion) -> int:
        """Bytes that it takes of a node, 0 where GPUs hold it: asks storage. Raises NotServed when none has so many."""

    def start(self, name: str, version: ModelVersion, memory: int) -> None:
        """Or gives one without a replica the settings of today. It has a replica when it is asked."""

    def end(self, name: str) -> None: ...

    def engine(self, name: str, model: str) -> Engine: ...


def application_name(version: ModelVersion) -> str:
    """By content: the same weights are loaded once."""
    return f"{PREFIX}{version.base_model}-{version.sha256[:16]}"


def with_full_weights(
    services: Services, applications: Applications, clock: Callable[[], float] = time.monotonic
) -> Services:
    """Services whose completions know such models too."""
    full = FullWeights(services, applications, clock)
    return replace(services, completions=full, full_models=full.replicas)


class FullWeights:
    """Completions of models with weights of their own by their applications; of all others as before."""

    def __init__(self, services: Services, applications: Applications, clock: Callable[[], float]) -> None:
        self._settings, self._resolver, self._rest = services.settings, services.resolver, services.completions
        self._catalog = services.catalog
        self._applications, self._clock, self._proofs = applications, clock, services.registry.proofs
        self._engines: dict[str, Engine] = {}
        self._awake: dict[str, float] = {}
        self._refusals: dict[str, tuple[float, str]] = {}
        self._starting = asyncio.Lock()
        self._memories: dict[str, asyncio.Task[int]] = {}
        self._doors: dict[str, Admission] = {}

    async def whole(self, ask: Ask) -> Chunk:
        engine, known = await self._engine(ask)
        return await engine.whole(known)

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        engine, known = await self._engine(ask)
        async with aclosing(engine.stream(known)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        found = [await self._resolved(ask) for ask in asks]
        if len({resolved.weights and resolved.weights.number for resolved in found}) > 1:  # a canary has some of them
            return await asyncio.gather(*(or_error(self._patiently(ask)) for ask in asks))
        known = [replace(ask, resolved=resolved) for ask, resolved in zip(asks, found, strict=True)]
        weights, account = found[0].weights, asks[0].caller.account
        if weights is None:
            return await self._rest.many(known)
        engine = await patiently(lambda: self._loaded(weights, account), PATIENCE_SECONDS)
        return await engine.many(known)

    async def _patiently(self, ask: Ask) -> Chunk:
        return await patiently(lambda: self.whole(ask), PATIENCE_SECONDS)

    async def warm(self, version: ModelVersion) -> None:
        if version.method is Method.FULL:
            await self._loaded(version, version.owner)
        else:
            await self._rest.warm(version)

    async def ready(self) -> dict[str, bool]:
        return await self._rest.ready()

    async def adapters(self) -> list[AdapterStats]:
        return await self._rest.adapters()

    async def replicas(self) -> dict[str, int]:
        """Of each application."""
        states = await CONTROLLER.run(self._applications.states)
        return {name: state.num_replicas for name, state in sorted(states.items())}

    async def _engine(self, ask: Ask) -> tuple[Engine | Completions, Ask]:
        """Who answers, once it can, and the ask with what its model's name means."""
        resolved = await self._resolved(ask)
        known = replace(ask, resolved=resolved)
        if resolved.weights is None:
            return self._rest, known
        return await self._loaded(resolved.weights, ask.caller.account), known

    async def _resolved(self, ask: Ask) -> Resolved:
        return await self._resolver.resolve(ask.caller, ask.request.model, ask.id, ask.base_model)

    async def _loaded(self, version: ModelVersion, account: str) -> Engine:
        """The version's engine, once it answers; Unavailable when that takes too long, AdapterRefused for a while.

        No more wait for it than will find a place in it.
        """
        name = application_name(version)
        engine = self._engines.setdefault(name, self._applications.engine(name, version.own_name))
        if self._clock() < self._awake.get(name, 0.0):
            return engine
        with self._door(name, version).place(account, 1):
            await self._load(name, version, engine)
        return engine

    def _door(self, name: str, version: ModelVersion) -> Admission:
        if name not in self._doors:
            row = self._catalog.get(version.base_model).engine
            words = "The model is being loaded: {} requests wait for it"
            self._doors[name] = Admission(row.max_num_seqs, row.max_queued, self._clock, words)
        return self._doors[name]

    async def _load(self, name: str, version: ModelVersion, engine: Engine) -> None:
        async with self._starting:
            self._check_refused(name)
            is_there = await self._others(name, version) is None
        if not is_there:
            await self._check_proof(version)
            memory = await self._memory(name, version)
            async with self._starting:
                await self._start(name, version, memory)
        try:
            await asyncio.wait_for(engine.idle_seconds(), self._settings.full_model_wait_s)
        except TimeoutError:
            self._check_refused(name)
            raise Unavailable(f"Model {version.model} is being loaded. Try again in a moment.") from None
        except (AdapterRefused, Unavailable) as error:
            self._check_refused(name)  # another request may have ended it meanwhile
            if isinstance(error, AdapterRefused):
                self._refusals[name] = self._clock() + RETRY_SECONDS, error.message
                await CONTROLLER.run(self._applications.end, name)
            raise
        self._awake[name] = self._clock() + AWAKE_SECONDS

    def _check_refused(self, name: str) -> None:
        until, message = self._refusals.get(name, (0.0, ""))
        if self._clock() < until:
            raise AdapterRefused(message)

    async def _others(self, name: str, version: ModelVersion) -> dict[str, State] | None:
        """The other applications, or None when this one is there, with a replica."""
        states = await CONTROLLER.run(self._applications.states)
        self._forget({name, *states})
        own = states.pop(name, None)
        if own and own.failure:
            await CONTROLLER.run(self._applications.end, name)
            raise Unavailable(f"Model {version.model} could not be loaded: {own.failure}")
        return None if own and own.num_replicas else states

    async def _memory(self, name: str, version: ModelVersion) -> int:
        """Storage may hang: it is asked once a version at a time, and as long keeps a thread of STORAGE. No other
        model's start waits for it while there are more.
        """
        if name not in self._memories:
            self._memories[name] = beside(STORAGE.run(self._applications.memory, version))
            self._memories[name].add_done_callback(lambda _: self._memories.pop(name))
        try:
            return await asyncio.wait_for(asyncio.shield(self._memories[name]), self._settings.full_model_wait_s)
        except TimeoutError:
            raise Unavailable(
                f"Model {version.model} cannot be loaded: storage does not answer. Try again in a moment."
            ) from None

    async def _start(self, name: str, version: ModelVersion, memory: int) -> None:
        """Sees to it that the application is there and may have a replica."""
        others = await self._others(name, version)
        if others is None:
            return
        await self._make_room(others)
        self._check_refused(name)  # another request may have found it out meanwhile
        named = version.model_copy(update={"model": version.own_name})
        await CONTROLLER.run(self._applications.start, name, named, memory)

    def _forget(self, there: Set[str]) -> None:
        """What is known of others has ended; but for refusals in their time, and doors at which somebody waits."""
        now = self._clock()
        self._engines = {name: engine for name, engine in self._engines.items() if name in there}
        self._doors = {name: door for name, door in self._doors.items() if name in there or door.num_taken}
        self._awake = {name: until for name, until in self._awake.items() if now < until}
        self._refusals = {name: told for name, told in self._refusals.items() if now < told[0]}

    async def _check_proof(self, version: ModelVersion) -> None:
        """What another door's engine found a moment ago needs no second one."""
        proof = (await REGISTRY.run(self._proofs.of, [version]))[version.number]
        age_ms = now_ms() - (proof.checked_on or 0)
        if proof.state is ProofState.REFUSED and age_ms < RETRY_SECONDS * 1000:
            raise refusal(version, proof.reason)

    async def _make_room(self, others: dict[str, State]) -> None:
        """For one more. The longest idle engine goes, none that is at work."""
        loaded = [name for name, state in others.items() if state.num_replicas]
        ended = [name for name in others if name not in loaded and others[name].age_s > NEW_SECONDS]
        surplus = len(loaded) + 1 - self._settings.max_full_models
        if surplus > 0:
            idle = dict(zip(loaded, await asyncio.gather(*map(self._idle_seconds, loaded)), strict=True))
            idle = {name: seconds for name, seconds in idle.items() if seconds > BUSY_SECONDS}
            if len(idle) < surplus:
                raise Unavailable(
                    f"As many models with weights of their own are loaded as may be (max_full_models = "
                    f"{self._settings.max_full_models}), and in use. Try again in a moment."
                )
            ended += sorted(idle, key=idle.__getitem__, reverse=True)[:surplus]
        for name in ended:
            await CONTROLLER.run(self._applications.end, name)

    async def _idle_seconds(self, name: str) -> float:
        engine = self._engines.setdefault(name, self._applications.engine(name, name))
        try:
            return await asyncio.wait_for(engine.idle_seconds(), ANSWER_SECONDS)
        except (TimeoutError, Unavailable):
            return 0.0
        except AdapterRefused:
            return math.inf
