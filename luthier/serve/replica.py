"""A replica of one base model: its engine, its resolver, its way to the ledger, in one process."""

from collections.abc import AsyncIterator

import ray

from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.prices import load_prices
from luthier.platform.registry.actor import RegistryClient
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.wire import Chunk
from luthier.serve.adapters import Resolver
from luthier.serve.complete import Completer
from luthier.serve.engine import VllmEngine
from luthier.serve.services import Ask
from luthier.serve.usage import UsageSpool


class Replica:
    """The class behind each base model's Serve deployment."""

    async def __init__(self, settings: Settings, base_model: str) -> None:  # type: ignore[misc] # Serve awaits it
        registry, catalog = RegistryClient(), load_catalog(settings)
        base = catalog.get(base_model)
        self._resolver = Resolver(settings, catalog, registry.models)
        self._engine = VllmEngine(base, base_model_dir(settings, base), use_gpu=bool(ray.get_gpu_ids()))
        spool = UsageSpool(settings.home / "spool" / base.name, registry.ledger.append)
        self._completer = Completer(base, self._engine, load_prices(configs_dir() / "prices.toml"), spool.settle)

    async def check_health(self) -> None:
        """Serve asks this and restarts a replica whose engine died."""
        await self._engine.check()

    async def complete(self, ask: Ask) -> AsyncIterator[Chunk]:
        resolved = await self._resolver.resolve(ask.caller, ask.request.model)
        async for chunk in self._completer.complete(ask, resolved):
            yield chunk
