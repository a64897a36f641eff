"""The native API on who may do what: /luthier/v1/accounts, /users, /roles, /grants, /parameters."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from pydantic import Field

from luthier.errors import InvalidInput
from luthier.platform.access import KEY_PREFIX, hash_key, new_key
from luthier.platform.frozen import Frozen, ListOf
from luthier.platform.keys import Session
from luthier.platform.registry.accounts import AccountKey
from luthier.platform.registry.grants import Grant, RoleGrant
from luthier.platform.securables import Granted, ObjectKind, Scope, parse_privileges, role_key, user_key
from luthier.serve.doors.deps import CallerOf, ServicesOf, SessionOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageBehindOf, PageOf
from luthier.serve.doors.paths import NAME, Key, UserKey
from luthier.serve.services import Services

routes = JsonRouter()


class NewAccount(Frozen):
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}$")


class NewUser(Frozen):
    name: UserKey
    default_role: str | None = None
    comment: str = ""


class DefaultRole(Frozen):
    role: str | None
    """None: he has none."""


class NewRole(Frozen):
    name: Key
    comment: str = ""


class Member(Frozen):
    """Who gets a role, or loses it."""

    kind: Literal["USER", "ROLE"] = "USER"
    name: str


class GrantedBody(Frozen):
    privileges: ListOf[str] = Field(min_length=1)
    kind: ObjectKind
    name: str = ""
    """Of the object; with a scope of ALL or FUTURE, of the schema."""
    scope: Scope = Scope.ONE

    def __str__(self) -> str:
        which = self.kind.value if self.scope is Scope.ONE else f"{self.scope} {self.kind}S IN SCHEMA"
        return f"{', '.join(self.privileges)} ON {which} {self.name}".strip()


class GrantBody(GrantedBody):
    role: str
    """Who holds it from now on, or no more."""


class Shown(Frozen):
    """Which grants are shown: those to a role, of a role, to a user, on an object, or future ones in a schema."""

    to_role: str | None = None
    of_role: str | None = None
    to_user: str | None = None
    kind: ObjectKind | None = None
    name: str = ""
    future_in: str | None = None


class Value(Frozen):
    value: str | None
    """None: its default again."""


@routes.post("/accounts", status_code=201)
def create_account(request: Request, body: NewAccount, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """A new account, by who runs the platform. The key of its admin is shown this once."""
    request.state.object = ("account", body.name)
    key = new_key()
    kept = AccountKey(hash=hash_key(key), prefix=key[: len(KEY_PREFIX) + 4])
    account = services.registry.accounts.create(caller, body.name, kept)
    return {**account.model_dump(), "user": "admin", "api_key": key}


@routes.get("/accounts")
def list_accounts(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """All of them for who runs the platform, else one's own. By their names."""
    accounts = services.registry.accounts.show(caller, page.limit, page.after)
    return page.told("accounts", accounts, lambda account: account.name)


@routes.get("/parameters")
def show_parameters(caller: CallerOf, services: ServicesOf) -> dict[str, dict[str, str]]:
    return {"parameters": services.registry.accounts.parameters(caller)}


@routes.put("/parameters/{parameter}")
def set_parameter(parameter: str, body: Value, caller: CallerOf, services: ServicesOf) -> dict[str, dict[str, str]]:
    """ALTER ACCOUNT SET."""
    return {"parameters": services.registry.accounts.set_parameter(caller, parameter, body.value)}


@routes.post("/users", status_code=201)
def create_user(request: Request, body: NewUser, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    request.state.object = ("user", body.name)
    role = role_key(body.default_role) if body.default_role else None
    services.registry.users.create(caller, body.name, role, body.comment)
    return services.registry.users.get(caller, body.name).model_dump()


@routes.get("/users")
def list_users(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names."""
    users = services.registry.users.show(caller, page.limit, page.after)
    return page.told("users", users, lambda user: user.name)


@routes.put(f"/users/{NAME}/default-role")
def set_default_role(name: UserKey, body: DefaultRole, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """ALTER USER ... SET DEFAULT_ROLE."""
    services.registry.users.set_default_role(caller, name, role_key(body.role) if body.role else None)
    return services.registry.users.get(caller, name).model_dump()


@routes.delete(f"/users/{NAME}")
def drop_user(name: UserKey, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """His keys are revoked."""
    services.registry.users.drop(caller, name)
    return {"name": name}


@routes.post("/roles", status_code=201)
def create_role(request: Request, body: NewRole, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    request.state.object = ("role", body.name)
    services.registry.roles.create(caller, body.name, body.comment)
    return services.registry.roles.get(caller, body.name).model_dump()


@routes.get("/roles")
def list_roles(caller: CallerOf, services: ServicesOf, page: PageOf) -> dict[str, Any]:
    """By their names."""
    roles = services.registry.roles.show(caller, page.limit, page.after)
    return page.told("roles", roles, lambda role: role.name)


@routes.delete(f"/roles/{NAME}")
def drop_role(name: Key, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """What it owned is the caller's role's from then on."""
    services.registry.roles.drop(caller, name)
    return {"name": name}


@routes.post(f"/roles/{NAME}/grant")
def grant_role(request: Request, name: Key, body: Member, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """GRANT ROLE ... TO USER | ROLE."""
    request.state.object = ("role", f"{name} TO {body.kind} {body.name}")
    to = services.securable(ObjectKind(body.kind), body.name)
    services.registry.roles.grant(caller, name, to)
    return {"role": name, "granted_to": to.kind.value, "grantee_name": to.name}


@routes.post(f"/roles/{NAME}/revoke")
def revoke_role(request: Request, name: Key, body: Member, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    request.state.object = ("role", f"{name} FROM {body.kind} {body.name}")
    of = services.securable(ObjectKind(body.kind), body.name)
    services.registry.roles.revoke(caller, name, of)
    return {"role": name, "revoked_from": of.kind.value, "grantee_name": of.name}


@routes.get("/grants")
def show_grants(
    session: SessionOf, services: ServicesOf, shown: Annotated[Shown, Depends()], page: PageBehindOf
) -> dict[str, Any]:
    """SHOW GRANTS; without a question, the roles of the caller's user."""
    return page.told("grants", grants_shown(services, session, shown)(page.limit, page.after))


@routes.post("/grants")
def grant(request: Request, body: GrantBody, caller: CallerOf, services: ServicesOf) -> dict[str, int]:
    """GRANT <privileges> ON ... TO ROLE; on how many objects it is now."""
    request.state.object = ("grant", f"{body} TO ROLE {body.role}")
    return {"objects": services.registry.grants.grant(caller, granted_in(services, body), role_key(body.role))}


@routes.post("/grants/revoke")
def revoke(request: Request, body: GrantBody, caller: CallerOf, services: ServicesOf) -> dict[str, int]:
    """REVOKE <privileges> ON ... FROM ROLE."""
    request.state.object = ("grant", f"{body} FROM ROLE {body.role}")
    return {"objects": services.registry.grants.revoke(caller, granted_in(services, body), role_key(body.role))}


def granted_in(services: Services, body: GrantedBody) -> Granted:
    privileges = parse_privileges(body.kind, body.privileges)
    if not body.name and body.kind is not ObjectKind.ACCOUNT:
        raise InvalidInput(f"name: say which {body.kind}, or which schema.")
    if body.scope is Scope.ONE:
        return Granted(privileges, services.securable(body.kind, body.name))
    return Granted(privileges, services.in_schema(body.kind, body.name), body.scope)


def grants_shown(
    services: Services, session: Session, shown: Shown
) -> Callable[[int, int], Sequence[Grant] | Sequence[RoleGrant]]:
    """Gives at most so many of them, behind as many as are passed over."""
    grants, caller = services.registry.grants, session.caller
    if shown.kind is ObjectKind.MODEL:
        services.check_tuned(session, shown.name)
    if shown.to_role:
        return partial(grants.to_role, caller, role_key(shown.to_role))
    if shown.of_role:
        return partial(grants.of_role, caller, role_key(shown.of_role))
    if shown.future_in:
        return partial(grants.future, caller, services.securable(ObjectKind.SCHEMA, shown.future_in))
    if shown.kind:
        return partial(grants.on, caller, services.securable(shown.kind, shown.name))
    return partial(grants.to_user, caller, user_key(shown.to_user) if shown.to_user else caller.user)
