"""Names to adapters: what a model name means now, remembered for a moment."""

import time
from collections.abc import Callable

from luthier.errors import InvalidInput, ModelNotFound, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import Resolved
from luthier.platform.names import parse_name
from luthier.platform.registry.models import Models
from luthier.platform.settings import Settings
from luthier.serve.remember import Remembered

SOFT_SECONDS, FRESH_SECONDS = 0.5, 1.0
"""A dropped model answers for at most FRESH_SECONDS; a new one at once, as misses are never remembered."""


class Resolver:
    """Base models win over tuned ones of the same name."""

    def __init__(
        self, settings: Settings, catalog: Catalog, models: Models, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._models = settings, models
        self._bases = {base.name: Resolved(name=base.name, base_model=base.name) for base in catalog}
        self._catalog = catalog
        self._tuned = Remembered(self._ask, SOFT_SECONDS, FRESH_SECONDS, clock)

    async def resolve(self, caller: Caller, model: str) -> Resolved:
        """What answers for a name; ModelNotFound if nothing does."""
        if base := self._catalog.find(model):
            return self._bases[base.name]
        return await self._tuned.get((caller, model))

    def _ask(self, asked: tuple[Caller, str]) -> Resolved:
        caller, model = asked
        try:
            version = self._models.get(caller, parse_name(model, self._settings.database, self._settings.schema_name))
        except (NotFound, InvalidInput) as error:
            raise ModelNotFound(f"Unknown model {model!r}, not a base model. {error.message}", param="model") from error
        return Resolved(name=version.model, base_model=version.base_model, adapter=version)
