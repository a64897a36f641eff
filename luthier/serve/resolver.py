"""Names to adapters: what a model name means now, as long as the registry says that nothing changed (known.py)."""

from collections.abc import Sequence

from luthier.errors import InvalidInput, LuthierError, ModelNotFound, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.models import Resolved, Serving
from luthier.platform.names import QualifiedName
from luthier.platform.registry.versions import Versions
from luthier.platform.settings import Settings
from luthier.platform.versions import Wanted, parse_model, pick
from luthier.serve.known import Epoch, Known

FRESH_SECONDS = 1.0
"""A dropped model, or a default that is left, answers for at most so long; a new model at once, as misses are never
known."""
Asked = tuple[Caller, str]
"""Who asks for which name."""


class Resolver:
    """Base models win over tuned ones of the same name."""

    def __init__(self, settings: Settings, catalog: Catalog, versions: Versions, epoch: Epoch) -> None:
        self._settings, self._versions = settings, versions
        self._bases = {base.name: Resolved(name=base.name, base_model=base.name) for base in catalog}
        self._catalog = catalog
        self._tuned = Known(epoch, self._ask, self._again, FRESH_SECONDS)

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

    def _ask(self, asked: Asked) -> Serving:
        try:
            return self._versions.serving(*self._question(asked))
        except (NotFound, InvalidInput) as error:
            told = f"Unknown model {asked[1]!r}, not a base model. {error.message}"
            raise ModelNotFound(told, param="model") from error

    def _again(self, asked: Sequence[Asked]) -> list[Serving | LuthierError]:
        return self._versions.serving_all([self._question(each) for each in asked])

    def _question(self, asked: Asked) -> tuple[Caller, QualifiedName, Wanted]:
        caller, model = asked
        return caller, *parse_model(model, self._settings.database, self._settings.schema_name)
