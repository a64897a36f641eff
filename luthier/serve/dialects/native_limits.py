"""The native API's routes on rate limits: of keys, on models, of keys on models."""

from typing import Any

from fastapi import Request

from luthier.platform.rates import RateLimit
from luthier.platform.registry.rates import place_of
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageOf
from luthier.serve.services import Services

routes = JsonRouter(prefix="/limits")


@routes.get("")
def list_limits(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """Of the account's keys and models."""
    limits = services.registry.rates.show(caller, page.limit, page.after)
    return page.told("limits", limits, place_of)


@routes.put("")
def set_limit(request: Request, body: RateLimit, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """What a key, a model, or a key on a model may have in a minute, in the place of what it was."""
    request.state.object = ("limit", " ".join(filter(None, (body.key, body.model))))
    if body.model and not services.catalog.find(body.model):
        services.registry.models.get(caller, services.model_name(body.model).name)  # NotFound for what he does not see
    named = body.model_copy(update={"model": _name(services, body.model)})
    return services.registry.rates.set(caller, named).model_dump()


@routes.delete("")
def unset_limit(
    request: Request, caller: CallerOf, services: ServicesOf, key: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """The limit that was set for this key, this model, or this key on this model."""
    request.state.object = ("limit", " ".join(filter(None, (key, model))))
    return services.registry.rates.unset(caller, key or None, _name(services, model)).model_dump()


def _name(services: Services, model: str | None) -> str | None:
    """In full, without a version."""
    return services.names_of(model)[-1] if model else None
