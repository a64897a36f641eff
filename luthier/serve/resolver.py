"""Names to adapters: what a model name means now, remembered as long as the registry says that nothing changed.

It is asked that at most twice a second for all names together, and of a name itself once after each change.
"""

import time
from collections.abc import Callable

from luthier.errors import InvalidInput, ModelNotFound, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import Resolved, Serving
from luthier.platform.registry.versions import Versions
from luthier.platform.settings import Settings
from luthier.platform.versions import parse_model, pick
from luthier.serve.remember import Remembered

SOFT_SECONDS, FRESH_SECONDS = 0.5, 1.0
"""A dropped model, or a default that is left, answers for at most FRESH_SECONDS; a new model at once, as misses are
never remembered."""


class Resolver:
    """Base models win over tuned ones of the same name."""

    def __init__(
        self, settings: Settings, catalog: Catalog, versions: Versions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._versions = settings, versions
        self._bases = {base.name: Resolved(name=base.name, base_model=base.name) for base in catalog}
        self._catalog = catalog
        self._epoch = Remembered(self._ask_epoch, SOFT_SECONDS, FRESH_SECONDS, clock)
        self._tuned = Remembered(self._ask, FRESH_SECONDS, FRESH_SECONDS, clock, self._is_unchanged)

    async def resolve(
        self, caller: Caller, model: str, request_id: str = "", base_model: str | None = None
    ) -> Resolved:
        """What answers a request for a name, at the door or in a base model's replica; ModelNotFound if nothing does.

        A canary is drawn by the request's id. The door has no need of one: canary and default stand on one base model.
        """
        if base := self._catalog.find(model):
            return self._bases[base.name]
        version = pick(await self._tuned.get((caller, model)), request_id, base_model)
        return Resolved(name=version.model, base_model=version.base_model, adapter=version)

    async def _is_unchanged(self, serving: Serving) -> bool:
        return serving.epoch == await self._epoch.get(None)

    def _ask_epoch(self, _: None) -> str:
        return self._versions.epoch()

    def _ask(self, asked: tuple[Caller, str]) -> Serving:
        caller, model = asked
        try:
            name = parse_model(model, self._settings.database, self._settings.schema_name)
            return self._versions.serving(caller, *name)
        except (NotFound, InvalidInput) as error:
            raise ModelNotFound(f"Unknown model {model!r}, not a base model. {error.message}", param="model") from error
