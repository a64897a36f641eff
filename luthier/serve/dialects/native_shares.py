"""The native API on shares: /luthier/v1/shares, and the databases that are made of them."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field

from luthier.platform.frozen import Frozen
from luthier.platform.names import fold
from luthier.platform.securables import role_key
from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.dialects.native_access import GrantedBody, granted_in
from luthier.serve.pages import Rows, listed
from luthier.serve.paths import NAME

routes = APIRouter()


class NewShare(Frozen):
    name: str
    comment: str = ""


class Accounts(Frozen):
    accounts: list[str] = Field(max_length=1000)


class FromShare(Frozen):
    """The share that a database is made of."""

    provider: str
    """The account whose share it is."""
    share: str


@routes.post("/shares", status_code=201)
def create_share(request: Request, body: NewShare, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """It gives nothing yet, and to nobody."""
    request.state.object = ("share", role_key(body.name))
    name = role_key(body.name)
    services.registry.shares.create(caller, name, body.comment)
    return {"name": name}


@routes.get("/shares")
def list_shares(caller: CallerOf, services: ServicesOf) -> Rows:
    """SHOW SHARES: one's own, and those of others that are open to one's account."""
    return listed("shares", services.registry.shares.show(caller))


@routes.get(f"/shares/{NAME}")
def describe_share(name: str, caller: CallerOf, services: ServicesOf, provider: str | None = None) -> Rows:
    """DESC SHARE: what it gives. `provider` is the account whose share it is; without it one's own is meant."""
    return listed("objects", services.registry.shares.describe(caller, role_key(name), provider))


@routes.delete(f"/shares/{NAME}")
def drop_share(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """Whoever used it finds nothing there any more."""
    services.registry.shares.drop(caller, role_key(name))
    return {"name": role_key(name)}


@routes.get(f"/shares/{NAME}/grants")
def list_share_grants(name: str, caller: CallerOf, services: ServicesOf) -> Rows:
    """SHOW GRANTS TO SHARE."""
    return listed("grants", services.registry.shares.grants(caller, role_key(name)))


@routes.post(f"/shares/{NAME}/grant")
def grant_to_share(
    request: Request, name: str, body: GrantedBody, caller: CallerOf, services: ServicesOf
) -> dict[str, int]:
    """GRANT USAGE ON ... TO SHARE; on how many objects it is now."""
    request.state.object = ("grant", f"{body} TO SHARE {role_key(name)}")
    return {"objects": services.registry.shares.grant(caller, granted_in(services, body), role_key(name))}


@routes.post(f"/shares/{NAME}/revoke")
def revoke_from_share(
    request: Request, name: str, body: GrantedBody, caller: CallerOf, services: ServicesOf
) -> dict[str, int]:
    """REVOKE USAGE ON ... FROM SHARE; of a database with all that is in it."""
    request.state.object = ("grant", f"{body} FROM SHARE {role_key(name)}")
    return {"objects": services.registry.shares.revoke(caller, granted_in(services, body), role_key(name))}


@routes.get(f"/shares/{NAME}/accounts")
def list_share_accounts(name: str, caller: CallerOf, services: ServicesOf) -> Rows:
    """SHOW GRANTS OF SHARE."""
    return listed("accounts", services.registry.shares.accounts(caller, role_key(name)))


@routes.post(f"/shares/{NAME}/accounts")
def add_share_accounts(
    request: Request, name: str, body: Accounts, caller: CallerOf, services: ServicesOf
) -> dict[str, Any]:
    """All that it is open to then."""
    request.state.object = ("share", f"{role_key(name)} TO {', '.join(body.accounts)}")
    return {"to": services.registry.shares.add_accounts(caller, role_key(name), body.accounts)}


@routes.put(f"/shares/{NAME}/accounts")
def set_share_accounts(
    request: Request, name: str, body: Accounts, caller: CallerOf, services: ServicesOf
) -> dict[str, Any]:
    """These, and no others."""
    request.state.object = ("share", f"{role_key(name)} TO {', '.join(body.accounts)}")
    return {"to": services.registry.shares.set_accounts(caller, role_key(name), body.accounts)}


@routes.delete(f"/shares/{NAME}/accounts/{{account}}")
def remove_share_account(name: str, account: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    return {"to": services.registry.shares.remove_accounts(caller, role_key(name), [account])}


@routes.put(f"/shared-databases/{NAME}")
def import_database(name: str, body: FromShare, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """CREATE DATABASE ... FROM SHARE."""
    database = fold(name.strip())
    services.registry.shares.import_database(caller, database, body.provider, role_key(body.share))
    return {"name": database}


@routes.delete(f"/shared-databases/{NAME}")
def drop_shared_database(name: str, caller: CallerOf, services: ServicesOf) -> dict[str, str]:
    """DROP DATABASE: nobody of the account reaches the share by it any more."""
    database = fold(name.strip())
    services.registry.shares.drop_database(caller, database)
    return {"name": database}
