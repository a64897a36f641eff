"""The native API's routes on rate limits: of keys, on models, of keys on models."""

from typing import Any

from fastapi import APIRouter, Request

from luthier.platform.access import Caller
from luthier.platform.rates import RateLimit
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.registry.rates import place_of
from luthier.platform.versions import parse_model
from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.pages import Limit, paged
from luthier.serve.services import Services

routes = APIRouter(prefix="/limits")


@routes.get("")
def list_limits(
    caller: CallerOf, services: ServicesOf, after: str | None = None, limit: Limit = MAX_SHOWN
) -> dict[str, Any]:
    """Of the account's keys and models."""
    limits = services.registry.rates.show(caller, limit, after)
    return paged("limits", limits, limit, place_of, RateLimit.model_dump)


@routes.put("")
def set_limit(request: Request, body: RateLimit, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """What a key, a model, or a key on a model may have in a minute, in the place of what it was."""
    request.state.object = ("limit", " ".join(filter(None, (body.key, body.model))))
    if body.model:
        _check_model(services, caller, body.model)
    named = body.model_copy(update={"model": _name(services, body.model)})
    return services.registry.rates.set(caller, named).model_dump()


@routes.delete("")
def unset_limit(
    request: Request, caller: CallerOf, services: ServicesOf, key: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """The limit that was set for this key, this model, or this key on this model."""
    request.state.object = ("limit", " ".join(filter(None, (key, model))))
    return services.registry.rates.unset(caller, key or None, _name(services, model)).model_dump()


def _check_model(services: Services, caller: Caller, model: str) -> None:
    """NotFound for what is no base model, and no model that he sees."""
    if not services.catalog.find(model):
        name = parse_model(model, services.settings.database, services.settings.schema_name)
        services.registry.models.get(caller, name.name)


def _name(services: Services, model: str | None) -> str | None:
    """In full, without a version."""
    return services.names_of(model)[-1] if model else None
