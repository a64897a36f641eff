"""The native API's routes on the versions of a model: which of them its name means."""

from typing import Any

from luthier.errors import NotServed
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.options import Method
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.versions import ModelName, Wanted, parse_alias, parse_version
from luthier.serve.dialects.native_models import told_of
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import Behind, Limit, paged
from luthier.serve.doors.paths import NAME
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY

routes = JsonRouter()


class OfVersion(Frozen):
    version: int | str
    """A number, V with a number, or an alias."""

    @property
    def wanted(self) -> Wanted:
        return parse_version(str(self.version))


class Promotion(OfVersion):
    warm: bool = True
    """The engines load the version first; what they cannot load is not promoted."""


class CanaryShare(Promotion):
    share: float
    """Percent of the requests that name the model alone."""


class Rollback(Frozen):
    leaving: int | None = None
    """The default that is to be left; when it is so already, nothing changes."""
    warm: bool = True


@routes.get(f"/models/{NAME}/versions")
def show_versions(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Oldest first, each with its aliases, its share of the requests and its losses."""
    versions = services.registry.versions.show(caller, services.name(name))
    return {"versions": told_of(services, versions)}


@routes.get(f"/models/{NAME}/history")
def show_history(
    name: str, caller: CallerOf, services: ServicesOf, after: Behind = 0, limit: Limit = MAX_SHOWN
) -> dict[str, Any]:
    """Who changed what the name means, and when; oldest first."""
    changes = services.registry.versions.history(caller, services.name(name), limit, after)
    return paged("history", changes, limit, lambda change: str(change.id))


@routes.post(f"/models/{NAME}/promote")
async def promote(name: str, body: Promotion, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The version is the default from now on; a canary ends."""
    asked = await _ready(services, caller, name, body)
    return (await REGISTRY.run(services.registry.versions.promote, caller, *asked)).told()


@routes.post(f"/models/{NAME}/rollback")
async def rollback(name: str, caller: CallerOf, services: ServicesOf, body: Rollback | None = None) -> dict[str, Any]:
    """The default before this one is the default again; a canary ends."""
    asked, model, versions = body or Rollback(), services.name(name), services.registry.versions
    serving = await REGISTRY.run(versions.serving, caller, model)
    leaving = asked.leaving or serving.default.version
    if asked.warm and serving.before and leaving == serving.default.version:
        await _warm(services, caller, ModelName(model, serving.before.version))
    return (await REGISTRY.run(versions.rollback, caller, model, leaving)).told()


@routes.put(f"/models/{NAME}/canary")
async def set_canary(name: str, body: CanaryShare, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The version answers a share of the requests that name the model alone."""
    asked = await _ready(services, caller, name, body)
    return (await REGISTRY.run(services.registry.versions.set_canary, caller, *asked, body.share)).told()


@routes.delete(f"/models/{NAME}/canary")
def end_canary(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return services.registry.versions.end_canary(caller, services.name(name)).told()


@routes.put(f"/models/{NAME}/aliases/{{alias}}")
def set_alias(name: str, alias: str, body: OfVersion, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """NAME@ALIAS means the version from now on."""
    key, wanted = parse_alias(alias), body.wanted
    return services.registry.versions.set_alias(caller, services.name(name), key, wanted).told()


@routes.delete(f"/models/{NAME}/aliases/{{alias}}")
def drop_alias(name: str, alias: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return services.registry.versions.drop_alias(caller, services.name(name), parse_alias(alias)).told()


@routes.post(f"/models/{NAME}/warm")
async def warm(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """All engines of its base model load the default version, or that in the name."""
    asked = services.model_name(name)
    await _warm(services, caller, asked)
    return (await REGISTRY.run(services.registry.models.get, caller, *asked)).told()


async def _ready(services: Services, caller: Caller, name: str, body: Promotion) -> ModelName:
    """The version that is meant; loaded, if that is asked for."""
    asked = ModelName(services.name(name), body.wanted)
    if body.warm:
        await _warm(services, caller, asked)
    return asked


async def _warm(services: Services, caller: Caller, name: ModelName) -> None:
    version = (await REGISTRY.run(services.registry.versions.serving, caller, *name)).default
    if version.method is not Method.FULL and version.base_model not in services.base_models:
        raise NotServed(
            f"Version {version.version} of {version.model} stands on {version.base_model}, which is not served here. "
            f"Add it to serve_base_models, or go on without warming (--no-warm)."
        )
    await services.completions.warm(version)
