"""The native API's routes on webhooks: where an account's notices go, and how far they have come."""

import uuid
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from luthier.platform.addresses import Addresses
from luthier.platform.frozen import Frozen, TupleOf
from luthier.platform.webhooks import NoticeType, new_webhook_id
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import Limit, paged

routes = JsonRouter(prefix="/webhooks")


class NewWebhook(Frozen):
    url: str = Field(max_length=2000)
    types: Annotated[TupleOf[NoticeType], Field(min_length=1)] | None = None
    """Of notices; all when not given."""


@routes.get("")
def list_webhooks(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return {"webhooks": [each.model_dump(mode="json") for each in services.registry.webhooks.show(caller)]}


@routes.post("", status_code=201)
def add_webhook(request: Request, body: NewWebhook, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """With its `secret`, which is shown this once: what is sent is signed with it (Standard Webhooks)."""
    webhook_id = new_webhook_id()
    request.state.object = ("webhook", webhook_id)
    services.registry.webhooks.show(caller)  # who may add none is told nothing of what its name resolves to
    with suppress(OSError):  # a name that does not resolve now may later
        Addresses(services.settings.webhook_networks).check(body.url)
    webhook, secret = services.registry.webhooks.add(caller, webhook_id, body.url, body.types)
    return {**webhook.model_dump(mode="json"), "secret": secret}


@routes.delete("/{webhook_id}")
def remove_webhook(webhook_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """What is on its way to it is not sent any more."""
    return services.registry.webhooks.remove(caller, webhook_id).model_dump(mode="json")


@routes.post("/{webhook_id}/test", status_code=202)
def test_webhook(webhook_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Sends a notice to this webhook alone; `notices` tells whether it came."""
    return services.registry.webhooks.test(caller, webhook_id, uuid.uuid4().hex).model_dump(mode="json")


@routes.get("/notices")
def list_notices(
    caller: CallerOf, services: ServicesOf, after: str | None = None, limit: Limit = 100
) -> dict[str, Any]:
    """Newest first, and how far each has come on its way to each webhook."""
    notices = services.registry.webhooks.notices(caller, limit, after)
    return paged("notices", notices, limit, lambda notice: notice.id)
