"""A replica of one base model: its engine, its resolver, its way to the ledger, in one process."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import aclosing

import ray
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica as serve_replica

from luthier.errors import Unavailable
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

log = logging.getLogger(__name__)


def keep_on_loopback() -> None:
    """Call it before Serve has set up the replica of this process.

    Each replica opens a port without any key, on all interfaces, for calls between deployments over gRPC. Calls here
    go through Ray, so the port is bound where nobody else reaches it. Serve has no setting for it.
    """
    assert serve_replica.add_port_to_grpc_server  # a Ray that has it elsewhere must not pass unseen
    serve_replica.add_port_to_grpc_server = lambda server, _address: add_port_to_grpc_server(server, "127.0.0.1:0")


class Replica:
    """The class behind each base model's Serve deployment."""

    async def __init__(self, settings: Settings, base_model: str) -> None:  # type: ignore[misc] # Serve awaits it
        keep_on_loopback()
        registry, catalog = RegistryClient(), load_catalog(settings)
        base = catalog.get(base_model)
        self._resolver = Resolver(settings, catalog, registry.models)
        self._engine = VllmEngine(base, base_model_dir(settings, base), use_gpu=bool(ray.get_gpu_ids()))
        spool = UsageSpool(settings.home / "spool" / base.name, registry.ledger.append)
        spool.start()
        self._completer = Completer(base, self._engine, load_prices(configs_dir() / "prices.toml"), spool.settle)

    async def check_health(self) -> None:
        """Serve asks this. A dead engine ends the process: Serve would ask thrice, then wait for its requests."""
        try:
            await self._engine.check()
        except Unavailable:
            log.exception("the engine died")
            self._engine.kill()
            os._exit(1)

    async def whole(self, ask: Ask) -> Chunk:
        return await self._completer.whole(ask, await self._resolver.resolve(ask.caller, ask.request.model))

    async def stream(self, ask: Ask) -> AsyncIterator[Chunk]:
        resolved = await self._resolver.resolve(ask.caller, ask.request.model)
        async with aclosing(self._completer.stream(ask, resolved)) as chunks:
            async for chunk in chunks:
                yield chunk
