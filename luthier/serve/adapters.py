"""Names to adapters: what a model name means now, remembered for a moment."""

import asyncio
import time
from collections.abc import Callable

from luthier.errors import InvalidInput, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import Resolved
from luthier.platform.names import parse_name
from luthier.platform.registry.models import Models
from luthier.platform.settings import Settings

FRESH_SECONDS = 1.0
"""A dropped model answers for at most so long; a new one at once, as misses are never remembered."""
MAX_NAMES = 10_000


class Resolver:
    """Base models win over tuned ones of the same name."""

    def __init__(
        self, settings: Settings, catalog: Catalog, models: Models, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._catalog, self._models, self._clock = settings, catalog, models, clock
        self._known: dict[tuple[str, str], tuple[float, Resolved]] = {}

    async def resolve(self, caller: Caller, model: str) -> Resolved:
        """What answers for a name; NotFound if nothing does."""
        if fresh := self._fresh(caller, model):
            return fresh
        return await asyncio.to_thread(self._ask, caller, model)

    def _fresh(self, caller: Caller, model: str) -> Resolved | None:
        if base := self._catalog.find(model):
            return Resolved(name=base.name, base_model=base.name)
        known = self._known.get((caller.account, model))
        return known[1] if known and self._clock() - known[0] < FRESH_SECONDS else None

    def _ask(self, caller: Caller, model: str) -> Resolved:
        try:
            version = self._models.get(caller, parse_name(model, self._settings.database, self._settings.schema_name))
        except (NotFound, InvalidInput) as error:
            self._known.pop((caller.account, model), None)
            raise NotFound(f"Unknown model {model!r}, not a base model. {error.message}") from error
        resolved = Resolved(name=version.model, base_model=version.base_model, adapter=version)
        if len(self._known) >= MAX_NAMES:
            self._known.clear()
        self._known[(caller.account, model)] = (self._clock(), resolved)
        return resolved
