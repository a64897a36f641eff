"""The native API on shares: /luthier/v1/shares, and the databases that are made of them."""

from typing import Any

from fastapi import Request
from pydantic import Field

from luthier.platform.frozen import Frozen, ListOf
from luthier.serve.dialects.native_access import GrantedBody, granted_in
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.doors.json_route import JsonRouter
from luthier.serve.doors.pages import PageBehindOf
from luthier.serve.doors.paths import NAME, Key

routes = JsonRouter()


class NewShare(Frozen):
    name: Key
    comment: str = ""


class Accounts(Frozen):
    accounts: ListOf[str] = Field(max_length=1000)


class FromShare(Frozen):
    """The share that a database is made of."""

    provider: str
    """The account whose share it is."""
    share: Key


@routes.post("/shares", status_code=201)
def create_share(request: Request, body: NewShare, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """It gives nothing yet, and to nobody."""
    request.state.object = ("share", body.name)
    services.registry.shares.create(caller, body.name, body.comment)
    return {"name": body.name}


@routes.get("/shares")
def list_shares(caller: CallerOf, services: ServicesOf, page: PageBehindOf) -> dict[str, Any]:
    """SHOW SHARES: one's own, and those of others that are open to one's account."""
    return page.told("shares", services.registry.shares.show(caller, page.limit, page.after))


@routes.get(f"/shares/{NAME}")
def describe_share(
    name: Key, caller: CallerOf, services: ServicesOf, page: PageBehindOf, provider: str | None = None
) -> dict[str, Any]:
    """DESC SHARE: what it gives. `provider` is the account whose share it is; without it one's own is meant."""
    objects = services.registry.shares.describe(caller, name, provider, page.limit, page.after)
    return page.told("objects", objects)


@routes.delete(f"/shares/{NAME}")
def drop_share(name: Key, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """Whoever used it finds nothing there any more."""
    services.registry.shares.drop(caller, name)
    return {"name": name}


@routes.get(f"/shares/{NAME}/grants")
def list_share_grants(name: Key, caller: CallerOf, services: ServicesOf, page: PageBehindOf) -> dict[str, Any]:
    """SHOW GRANTS TO SHARE."""
    return page.told("grants", services.registry.shares.grants(caller, name, page.limit, page.after))


@routes.post(f"/shares/{NAME}/grant")
def grant_to_share(
    request: Request, name: Key, body: GrantedBody, caller: CallerOf, services: ServicesOf
) -> dict[str, int]:
    """GRANT USAGE ON ... TO SHARE; on how many objects it is now."""
    request.state.object = ("grant", f"{body} TO SHARE {name}")
    return {"objects": services.registry.shares.grant(caller, granted_in(services, body), name)}


@routes.post(f"/shares/{NAME}/revoke")
def revoke_from_share(
    request: Request, name: Key, body: GrantedBody, caller: CallerOf, services: ServicesOf
) -> dict[str, int]:
    """REVOKE USAGE ON ... FROM SHARE; of a database with all that is in it."""
    request.state.object = ("grant", f"{body} FROM SHARE {name}")
    return {"objects": services.registry.shares.revoke(caller, granted_in(services, body), name)}


@routes.get(f"/shares/{NAME}/accounts")
def list_share_accounts(name: Key, caller: CallerOf, services: ServicesOf, page: PageBehindOf) -> dict[str, Any]:
    """SHOW GRANTS OF SHARE."""
    return page.told("accounts", services.registry.shares.accounts(caller, name, page.limit, page.after))


@routes.post(f"/shares/{NAME}/accounts")
def add_share_accounts(
    request: Request, name: Key, body: Accounts, caller: CallerOf, services: ServicesOf
) -> dict[str, Any]:
    """All that it is open to then."""
    request.state.object = ("share", f"{name} TO {', '.join(body.accounts)}")
    return {"to": services.registry.shares.add_accounts(caller, name, body.accounts)}


@routes.put(f"/shares/{NAME}/accounts")
def set_share_accounts(
    request: Request, name: Key, body: Accounts, caller: CallerOf, services: ServicesOf
) -> dict[str, Any]:
    """These, and no others."""
    request.state.object = ("share", f"{name} TO {', '.join(body.accounts)}")
    return {"to": services.registry.shares.set_accounts(caller, name, body.accounts)}


@routes.delete(f"/shares/{NAME}/accounts/{{account}}")
def remove_share_account(name: Key, account: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return {"to": services.registry.shares.remove_accounts(caller, name, [account])}


@routes.put(f"/shared-databases/{NAME}")
def import_database(name: Key, body: FromShare, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """CREATE DATABASE ... FROM SHARE."""
    services.registry.shares.import_database(caller, name, body.provider, body.share)
    return {"name": name}


@routes.delete(f"/shared-databases/{NAME}")
def drop_shared_database(name: Key, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """DROP DATABASE: nobody of the account reaches the share by it any more."""
    services.registry.shares.drop_database(caller, name)
    return {"name": name}
