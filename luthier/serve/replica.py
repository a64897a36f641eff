"""A replica, of a base model or of a version with all weights: engine, resolver, way to the ledger in one process."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

import ray
from prometheus_client import REGISTRY
from ray import serve
from starlette.types import ASGIApp

from luthier.errors import AdapterRefused, LuthierError, Unavailable
from luthier.platform.base_models import BaseModel, base_model_dir, load_catalog
from luthier.platform.metering import UsageRecord
from luthier.platform.models import ModelVersion, ProofState
from luthier.platform.registry.actor import registry_client
from luthier.platform.settings import GIB, MIB, Settings
from luthier.platform.storage import Storage
from luthier.platform.wire import Chunk
from luthier.serve import threads
from luthier.serve.adapters.adapter_stats import AdapterStats
from luthier.serve.adapters.disk import LocalDisk
from luthier.serve.adapters.loading import Surroundings
from luthier.serve.adapters.proof import prove_own, refusal
from luthier.serve.api import build_direct
from luthier.serve.asks import Ask, or_error
from luthier.serve.complete import Completer
from luthier.serve.engines.engine import VllmEngine
from luthier.serve.engines.engine_args import keep_environment
from luthier.serve.engines.engine_metrics import Places
from luthier.serve.full_weights import Applications, with_full_weights
from luthier.serve.handles import NearCompletions, Served
from luthier.serve.many import Many
from luthier.serve.metering.access_log import open_access_log
from luthier.serve.metering.books import ReplicaBooks
from luthier.serve.metering.engine_counts import Asked
from luthier.serve.metering.holders import Holders
from luthier.serve.metering.leases import Leases
from luthier.serve.metering.rates import Rates
from luthier.serve.metering.usage import UsageSpool
from luthier.serve.ray_replica import adapt_replica
from luthier.serve.routing import HELD
from luthier.serve.services import Services, make_services

log = logging.getLogger(__name__)

ANSWER_SECONDS = 0.3
"""After the engine's death, for telling those who wait for it."""


class EngineReplica:
    """An engine, its resolver and its way to the ledger, whatever weights the engine holds."""

    _engine: VllmEngine
    _completer: Completer
    _renewing: list[asyncio.Task[None]]
    _spool: UsageSpool | None = None

    def _open(self, base: BaseModel, services: Services, engine: VllmEngine) -> None:
        settings = services.settings
        folder, verbs = settings.home / "spool" / base.name, services.registry
        holders = Holders(folder, verbs.credits.end_holder)
        asked = Asked(engine.probed, lambda: self._completer.admission.num_taken)
        leases, rates = Leases(verbs.credits, holders.name), Rates(verbs.rates, holders.name)
        loop, max_bytes = asyncio.get_running_loop(), settings.max_spool_mib * MIB

        def give_back(repeated: list[UsageRecord]) -> None:
            loop.call_soon_threadsafe(leases.give_back, repeated)

        spool = UsageSpool(folder, verbs.ledger.append, max_bytes, asked.counts, holders.inherited, give_back)
        self._renewing = [asyncio.create_task(each.keep_renewed()) for each in (leases, rates)]
        keep_environment()
        self._engine, self._spool = engine, spool
        books = ReplicaBooks(spool, leases, rates, services.access_log, asked)
        self._completer = Completer(base, services.resolver, Many(engine), services.prices, books)
        REGISTRY.register(Places(base.name, self._completer.admission))
        spool.start()

    async def check_health(self) -> None:
        """Serve asks this. A dead engine ends the process: Serve would ask thrice, then wait for its requests."""
        try:
            await self._engine.check()
        except Unavailable:
            log.exception("the engine died")
            self._engine.kill()
            await asyncio.sleep(ANSWER_SECONDS)
            self._end()
            os._exit(1)

    def __del__(self) -> None:
        """Serve calls it when a replica ends in order."""
        self._end()

    def _end(self) -> None:
        if self._spool:
            self._spool.end()

    async def ready(self) -> dict[str, bool]:
        await self._engine.check()
        return {}

    async def adapters(self) -> list[AdapterStats]:
        return []

    async def warm(self, version: ModelVersion) -> None:
        await self._engine.check()

    async def whole(self, ask: Ask) -> Chunk:
        return await self._completer.whole(ask)

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        return await self._completer.many(asks)

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self._completer.stream(ask)) as chunks:
            async for chunk in chunks:
                yield chunk

    # as handles call them (`Application`)

    async def whole_or_error(self, ask: Ask) -> Chunk | LuthierError:
        return await or_error(self.whole(ask))

    async def stream_or_error(self, ask: Ask) -> AsyncGenerator[Chunk | LuthierError, None]:
        """The error comes last."""
        try:
            async with aclosing(self.stream(ask)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except LuthierError as error:
            yield error

    async def warm_or_error(self, version: ModelVersion) -> LuthierError | None:
        return await or_error(self.warm(version))


class Replica(EngineReplica):
    """The class behind each base model's Serve deployment."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, settings: Settings, base_model: str, applications: Applications
    ) -> None:
        adapt_replica()
        registry, base = registry_client(), load_catalog(settings).get(base_model)
        near = NearCompletions(base.name, self)
        services = make_services(settings, registry, near, base.name, open_access_log(settings))
        self._services = with_full_weights(replace(services, is_served=Served().has), applications)
        disk = LocalDisk(settings.adapter_copies, base.name, settings.adapter_disk_gib * GIB)
        around = Surroundings(registry.proofs.report, disk if disk.size else None)
        engine = VllmEngine(base, base_model_dir(settings, base), bool(ray.get_gpu_ids()), around)
        self._open(base, services, engine)
        self._renewing.append(asyncio.create_task(disk.keep_swept(Storage(settings.storage).adapters)))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The replica's HTTP; Serve asks for it once the engine has started."""
        return build_direct(self._services, serve.get_replica_context().replica_tag)

    async def ready(self) -> dict[str, bool]:
        await self._engine.check()
        return dict.fromkeys(self._services.base_models, True)

    async def adapters(self) -> list[AdapterStats]:
        stats = await self._engine.adapters(serve.get_replica_context().replica_tag)
        return [stats.model_copy(update={"node": ray.get_runtime_context().get_node_id()})]

    async def record_routing_stats(self) -> dict[str, list[int]]:
        """Serve asks this, for those who choose a replica."""
        return {HELD: self._engine.held()}

    async def warm(self, version: ModelVersion) -> None:
        await self._engine.load(version)


class FullReplica(EngineReplica):
    """The class behind the deployment of a version with weights of its own. It has no HTTP.

    Of a version that is refused it answers nothing but why, until whoever asked has ended it.
    """

    async def __init__(self, settings: Settings, version: ModelVersion) -> None:  # type: ignore[misc] # Serve awaits it
        adapt_replica(is_fronted=False)
        registry, base = registry_client(), load_catalog(settings).get(version.base_model)
        self._num_open, self._used = 0, time.monotonic()
        services = make_services(settings, registry, self, base.name, open_access_log(settings))

        def start() -> VllmEngine:
            weights, use_gpu = Path(version.path), bool(ray.get_gpu_ids())
            engine = VllmEngine(base, weights, use_gpu, Surroundings(registry.proofs.report), version.sha256)
            self._open(base, services, engine)
            return engine

        proof = await prove_own(version, start)
        self._refusal = refusal(version, proof.reason) if proof.state is ProofState.REFUSED else None
        try:
            await threads.REGISTRY.run(registry.proofs.report, version.number, proof)
        except Exception as error:  # whatever it is, the weights are there; the next that loads them tells it again
            log.warning("the proof of version %d was not told: %s", version.number, error)

    async def check_health(self) -> None:
        if self._refusal is None:
            await super().check_health()

    async def idle_seconds(self) -> float | AdapterRefused:
        """Since its last answer; 0 while it answers."""
        if self._refusal:
            return self._refusal
        return 0.0 if self._num_open else time.monotonic() - self._used

    async def whole(self, ask: Ask) -> Chunk:
        with self._in_use():
            return await super().whole(ask)

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        if self._refusal:
            return [self._refusal] * len(asks)
        with self._in_use():
            return await super().many(asks)

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        with self._in_use():
            async with aclosing(super().stream(ask)) as chunks:
                async for chunk in chunks:
                    yield chunk

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        if self._refusal:
            raise self._refusal
        self._num_open += 1
        try:
            yield
        finally:
            self._num_open -= 1
            self._used = time.monotonic()
