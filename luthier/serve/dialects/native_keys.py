"""The native API on keys. A secret is in one answer only, that to the request that made it."""

from typing import Annotated, Any

from fastapi import Request
from pydantic import Field

from luthier.platform.access import KEY_PREFIX, hash_key, new_key
from luthier.platform.frozen import Frozen, ListOf
from luthier.platform.jobs import now_ms
from luthier.platform.keys import DEFAULT_GRACE_S, MAX_GRACE_S, Endpoint, NewKey, Scope, ends_by, new_key_id
from luthier.platform.securables import role_key, user_key
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageOf

routes = JsonRouter(prefix="/keys")

MAX_SECONDS = 100 * 365 * 24 * 3600
SHOWN = 4
"""Letters of the secret that stay readable."""

Seconds = Annotated[int | None, Field(ge=1, le=MAX_SECONDS)]
Name = Annotated[str, Field(max_length=255)]


class CreateKey(Frozen):
    name: Name = ""
    user: Name | None = None
    """Without one it is the caller's."""
    role: Name | None = None
    """One that the user has; without one the caller's, or the user's default."""
    endpoints: Annotated[ListOf[Endpoint], Field(max_length=100)] = []
    """None named: all."""
    models: Annotated[ListOf[Name], Field(max_length=1000)] = []
    """None named: all."""
    read_only: bool = False
    expires_in_s: Seconds = None


class RotateKey(Frozen):
    grace_s: Annotated[int, Field(ge=0, le=MAX_GRACE_S)] = DEFAULT_GRACE_S
    """For so long the old secret works beside the new one."""
    expires_in_s: Seconds = None
    """Without it the new one ends when the old one was to end."""


@routes.post("", status_code=201)
def create_key(request: Request, body: CreateKey, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The answer has the secret, as `key`, this once."""
    secret, new = _drawn(body.expires_in_s)
    request.state.object = ("key", new.id)
    scope = Scope(
        endpoints=tuple(dict.fromkeys(body.endpoints)) or None,
        models=tuple(dict.fromkeys(services.names_of(model)[0] for model in body.models)) or None,
        read_only=body.read_only,
    )
    of = {"user": body.user and user_key(body.user), "role": body.role and role_key(body.role)}
    given = {"name": body.name, **of, "scope": scope}
    made = services.registry.keys.create(caller, new.model_copy(update=given))
    return {**made.model_dump(), "key": secret}


@routes.get("")
def list_keys(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """Of the account for its admin, else the caller's own; newest first."""
    keys = services.registry.keys.show(caller, page.limit, page.after)
    return page.told("keys", keys, lambda key: key.id)


@routes.delete("/{key_id}")
def revoke_key(key_id: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """It opens nothing any more, within 5 seconds at all doors."""
    return services.registry.keys.revoke(caller, key_id).model_dump()


@routes.post("/{key_id}/rotate", status_code=201)
def rotate_key(key_id: str, caller: CallerOf, services: ServicesOf, body: RotateKey | None = None) -> dict[str, Any]:
    """A new key with the same name, role and scope. The answer has its secret, as `key`, this once."""
    body = body or RotateKey()
    secret, new = _drawn(body.expires_in_s)
    made = services.registry.keys.rotate(caller, key_id, new, body.grace_s)
    return {**made.model_dump(), "key": secret}


def _drawn(expires_in_s: int | None) -> tuple[str, NewKey]:
    secret = new_key()
    new = NewKey(
        id=new_key_id(),
        hash=hash_key(secret),
        prefix=secret[: len(KEY_PREFIX) + SHOWN],
        expires_on=ends_by(now_ms(), expires_in_s),
    )
    return secret, new
