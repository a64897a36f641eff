"""Adapters on their way into an engine: on disk -> room -> read, and whole -> placed -> proved. One flight an adapter.

What is wrong with one adapter is that model's error alone; other requests go on beside it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

from luthier.errors import Unavailable
from luthier.platform.base_models import BaseModel
from luthier.platform.data.prompts import Prompts
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.serve.adapters.adapter_stats import AdapterStats, LoadTimes
from luthier.serve.adapters.disk import Copy, LocalDisk
from luthier.serve.adapters.fetching import Fetches
from luthier.serve.adapters.host_memory import HostMemory
from luthier.serve.adapters.proof import KnownBase, Scorer, fingerprint_of, not_given, prove, refusal
from luthier.serve.adapters.turns import Turns
from luthier.serve.remember import beside
from luthier.serve.threads import ADAPTERS, REGISTRY

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""A refused adapter may have been mended by then."""
POLL_SECONDS = 0.003
MAX_TOLD = 10_000
"""Versions whose proofs are known to have been told; beyond it all are told once more."""
TELL_SECONDS = 2.0
"""Less than whoever asks all replicas waits: one busy engine must not take the others' answers along."""
DISK, STORAGE = "disk", "storage"

Turn = Callable[[], None]
"""One of `Turns`, to be called at its end."""
Report = Callable[[int, Proof], None]
"""Takes a version's number and what was found; it may block."""


class Workers(Scorer, Protocol):
    async def call(self, method: str, *args: Any) -> list[Any]:
        """What each of the engine's workers answers to a method of AdapterWorker."""


class Surroundings(NamedTuple):
    """What an engine's adapters need beside it."""

    report: Report
    disk: LocalDisk | None = None
    """None: each is read where storage has it."""


@dataclass
class Flight:
    """One load, and who waits for it."""

    task: asyncio.Task[None] = field(init=False)
    num_waiting: int = 0
    is_in: bool = False
    """From then on those who waited hold the adapter."""
    source: str = STORAGE
    """Where its files came from."""
    turn: Turn | None = None
    """In the engine, for the proof. The first who waited goes on with it: for another he would wait again."""

    def inherited(self) -> Turn | None:
        turn, self.turn = self.turn, None
        return turn

    def end_turn(self) -> None:
        if turn := self.inherited():
            turn()

    def leave(self) -> None:
        """Who waited has what he waited for, or goes without it."""
        self.num_waiting -= 1
        if self.task.done() and not self.num_waiting:
            self.end_turn()


class Loader:
    """Belongs to one event loop."""

    def __init__(self, engine: Workers, base: BaseModel, prompts: Prompts, around: Surroundings, turns: Turns) -> None:
        self._engine, self._base, self._prompts, self._turns = engine, base, prompts, turns
        self._scorer = KnownBase(engine)
        self._report, self._disk = around
        self._fetches, self._memory = Fetches(self._disk), HostMemory(base.engine.max_cpu_loras)
        self._in: dict[int, ModelVersion] = {}
        """Those in memory."""
        self._flights: dict[int, Flight] = {}
        self._refusals: dict[int, tuple[float, str]] = {}
        self._whole: set[int] = set()
        """Numbers of those that are being read, and are what was published."""
        self._asking: asyncio.Task[dict[int, list[tuple[str, bool]]]] | None = None
        self._told: dict[int, Proof] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._hits = self._misses = self._num_refused = 0
        self._times = {source: LoadTimes() for source in (DISK, STORAGE)}

    async def hold(self, version: ModelVersion) -> Turn | None:
        """Returns when the adapter can be asked, and stays so until `release`. AdapterRefused says why it cannot be.

        Of those who waited for its load the first gets a turn in the engine, which he ends. Unavailable when storage
        does not give it: nothing is known of it then, and the next request tries again.
        """
        if await self._memory.take(version.number):
            self._hits += 1
            return None
        self._misses += 1
        flight = self._flights.get(version.number) or self._start(version)
        flight.num_waiting += 1
        try:
            await asyncio.shield(flight.task)
            return flight.inherited()
        except asyncio.CancelledError:
            if flight.is_in:
                self.release(version)
            raise
        finally:
            flight.leave()

    def release(self, version: ModelVersion) -> None:
        self._memory.give_back(version.number)

    def held(self) -> list[int]:
        """Versions in memory, by number."""
        return self._memory.numbers()

    async def _places(self) -> list[int] | None:
        """Of the slots of all its workers; None when it is too busy, or dead."""
        try:
            async with asyncio.timeout(TELL_SECONDS):
                first, *others = await self._engine.call("adapter_places")
        except (TimeoutError, Unavailable):
            return None
        return [number for number in first if all(number in each for each in others)]

    async def stats(self, replica: str) -> AdapterStats:
        disk, places = self._disk, await self._places()
        copies = await ADAPTERS.run(disk.copies) if disk else {}
        return AdapterStats(
            base_model=self._base.name,
            replica=replica,
            in_engine=places or [],
            engine_tells=places is not None,
            in_memory=self.held(),
            on_disk=list(copies),
            disk_bytes=sum(copies.values()),
            max_in_engine=self._base.engine.max_loras,
            max_in_memory=self._base.engine.max_cpu_loras,
            max_disk_bytes=disk.size if disk else 0,
            hits=self._hits,
            misses=self._misses,
            loads={source: times.told() for source, times in self._times.items()},
            evictions=self._memory.evictions,
            disk_evictions=disk.evictions if disk else 0,
            refused=self._num_refused,
        )

    def _start(self, version: ModelVersion) -> Flight:
        until, reason = self._refusals.get(version.number, (0.0, ""))
        if time.monotonic() < until:
            raise refusal(version, reason)
        flight = self._flights[version.number] = Flight()
        flight.task = beside(self._load(version, flight))
        flight.task.add_done_callback(lambda _: self._ended(version.number))
        return flight

    def _ended(self, number: int) -> None:
        flight = self._flights.pop(number)
        if not flight.num_waiting:
            flight.end_turn()

    async def _load(self, version: ModelVersion, flight: Flight) -> None:
        began = time.perf_counter()
        try:
            proof = await self._brought(version, flight)
        except OSError as error:
            log.warning("storage does not give the files of version %d: %s", version.number, error)
            raise not_given(version) from error
        self._tell(version.number, proof)
        if proof.state is ProofState.REFUSED:
            self._num_refused += 1
            now = time.monotonic()
            self._refusals = {number: told for number, told in self._refusals.items() if now < told[0]}
            self._refusals[version.number] = now + RETRY_SECONDS, proof.reason
            raise refusal(version, proof.reason)
        self._times[flight.source].add(time.perf_counter() - began)

    async def _brought(self, version: ModelVersion, flight: Flight) -> Proof:
        """What is refused as the disk had it, or cannot be read there, is taken from storage once more."""
        with closing(await self._fetches.copy(version)) as copy:
            flight.source = DISK if copy.was_there else STORAGE
            try:
                proof = await self._place(version, flight, copy)
                if proof.state is not ProofState.REFUSED:
                    return proof
            except OSError:
                if not copy.was_there:
                    raise
            await ADAPTERS.run(copy.discard)
        return await self._brought(version, flight) if copy.was_there else proof

    async def _place(self, version: ModelVersion, flight: Flight, copy: Copy) -> Proof:
        """In the engine, and held by all who wait, if it is not refused; not there if it is."""
        evicted = await self._memory.room()
        # Not waited for: the engine does what it is asked in turn, and nobody can ask for it again before.
        dropping = asyncio.create_task(self._drop(evicted))
        try:
            there = version.model_copy(update={"path": str(copy.path)})
            reading, place = copy.run(fingerprint_of, there), partial(self._put_in_turn, there, copy, flight)
            try:
                proof = await prove(self._scorer, self._prompts, there, reading, place)
            finally:
                await dropping
            flight.is_in = proof.state is not ProofState.REFUSED
            return proof
        finally:
            if flight.is_in:
                self._in[version.number] = version
                self._memory.fill(version.number, flight.num_waiting)
            else:
                flight.end_turn()
                await self._engine.call("drop_adapter", version.number)
                self._memory.forgo()

    async def _drop(self, evicted: int | None) -> None:
        if evicted is None:
            return
        gone = self._in.pop(evicted)
        await self._engine.call("drop_adapter", evicted)
        if self._disk:
            self._disk.used(gone)

    async def _put_in_turn(self, version: ModelVersion, copy: Copy, flight: Flight) -> str | None:
        fault = await self._put(version, copy)
        if fault is None:
            flight.turn = await self._turns.take(version.number, 0, time.monotonic())
        return fault

    async def _put(self, version: ModelVersion, copy: Copy) -> str | None:
        """Into the engine, beside its steps; or what is wrong with it. OSError as `fault_of`."""
        checking = asyncio.create_task(copy.fault())
        try:
            await self._engine.call("begin_adapter", version.number, version.model, version.path, copy.is_far)
        finally:
            fault = await checking
        if fault:
            return fault
        self._whole.add(version.number)
        try:
            async with asyncio.timeout(copy.seconds):
                while (faults := (await self._taken()).get(version.number)) is None:
                    pass
        finally:
            self._whole.discard(version.number)
        for words, is_storages in faults:
            if is_storages:
                raise OSError(words)
            return f"the engine cannot load it ({words})"
        return None

    async def _taken(self) -> dict[int, list[tuple[str, bool]]]:
        """Adapters that all workers have, or that some cannot have: why. One question for all flights, as it comes
        between the engine's steps.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_taken())
        return await asyncio.shield(self._asking)

    async def _ask_taken(self) -> dict[int, list[tuple[str, bool]]]:
        await asyncio.sleep(POLL_SECONDS)
        told = [dict(each) for each in await self._engine.call("take_adapters", sorted(self._whole))]
        return {
            number: [fault for each in told if (fault := each[number])] for number in set.intersection(*map(set, told))
        }

    def _tell(self, number: int, proof: Proof) -> None:
        """Once, in a thread of its own."""
        if self._told.get(number) == proof:
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[number] = proof
        task = asyncio.create_task(REGISTRY.run(self._report, number, proof))
        self._telling.add(task)
        task.add_done_callback(lambda done: self._was_told(number, done))

    def _was_told(self, number: int, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._told.pop(number, None)  # the next load tells it again
            log.warning("the proof of version %d was not told: %s", number, error)
