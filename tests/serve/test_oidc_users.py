"""Whom a token names, by the folding of SQL, and the role that he acts in: by the claim, the header, his default."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import NotAllowed, NotAuthenticated
from luthier.platform.access import Caller
from luthier.platform.registry.audit import Search
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ObjectKind, Securable
from luthier.serve.doors.deps import KeyCheck
from luthier.serve.known import Epoch
from tests.factories import ADMIN
from tests.fakes import Clock
from tests.serve.provider import ANN, Provider, oidc_of, session_of

pytestmark = pytest.mark.usefixtures("ann")

USER = Securable(ObjectKind.USER, name="ANN")


@pytest.fixture
def ann_leads(registry: Registry, ann: None) -> None:
    """Further roles of hers; she begins as SALES all the same."""
    registry.users.set_default_role(ADMIN, "ANN", "SALES")
    for role in ("LEAD", "BOARD", "Data Team"):
        registry.roles.create(ADMIN, role)
        registry.roles.grant(ADMIN, role, USER)


def test_new_users(registry: Registry, home: Path, provider: Provider, clock: Clock) -> None:
    oidc = oidc_of(registry, home, provider, clock, oidc_create_users=True)
    bob = Caller(account=ADMIN.account, user="BOB", role="PUBLIC")
    for name in ("bob", "Bob", "bob"):
        assert session_of(oidc, provider.token(sub=name)).caller == bob
    (row,) = registry.audit.show(ADMIN, Search(user="BOB"))
    assert (row.action, row.object_kind, row.object_name, row.source) == ("create_user", "user", "BOB", provider.issuer)
    assert [user.name for user in registry.users.show(ADMIN)] == ["ANN", "BOB", "admin"]


def test_a_user_who_was_dropped(registry: Registry, home: Path, provider: Provider, clock: Clock) -> None:
    oidc = oidc_of(registry, home, provider, clock, oidc_create_users=True)
    session_of(oidc, provider.token(sub="bob"))
    registry.users.drop(ADMIN, "BOB")
    for name in ("bob", "Bob"):
        with pytest.raises(NotAuthenticated, match="User BOB was dropped here"):
            session_of(oidc, provider.token(sub=name))
    assert [user.name for user in registry.users.show(ADMIN)] == ["ANN", "admin"]


@pytest.mark.parametrize("told", ["ann", "ANN", "Ann"])
def test_a_user_that_sql_made(registry: Registry, home: Path, provider: Provider, clock: Clock, told: str) -> None:
    assert session_of(oidc_of(registry, home, provider, clock), provider.token(sub=told)).caller == ANN


@pytest.mark.parametrize("told", ["admin", "Admin", "ADMIN"])
def test_the_first_user_of_an_account(
    registry: Registry, home: Path, provider: Provider, clock: Clock, told: str
) -> None:
    refusing = oidc_of(registry, home, provider, clock, oidc_create_users=True)
    with pytest.raises(NotAuthenticated, match="only where `oidc_admin` is set"):
        session_of(refusing, provider.token(sub=told))
    assert (
        session_of(oidc_of(registry, home, provider, clock, oidc_admin=True), provider.token(sub=told)).caller == ADMIN
    )


def test_a_name_that_only_looks_like_his(registry: Registry, home: Path, provider: Provider, clock: Clock) -> None:
    oidc = oidc_of(registry, home, provider, clock, oidc_admin=True)
    with pytest.raises(NotAuthenticated, match="is no user here"):
        session_of(oidc, provider.token(sub="adm\u0131n"))


@pytest.mark.parametrize("told", ["ann@example.com", "auth0|5f", "00u1a", "Ann B", '"ann"'])
def test_a_name_that_sql_has_in_quotes(
    registry: Registry, home: Path, provider: Provider, clock: Clock, told: str
) -> None:
    oidc = oidc_of(registry, home, provider, clock)
    for near in {told.upper(), told.strip('"')} - {told}:
        registry.users.create(ADMIN, near)
    with pytest.raises(NotAuthenticated, match="is no user here"):
        session_of(oidc, provider.token(sub=told))
    registry.users.create(ADMIN, told)
    assert session_of(oidc, provider.token(sub=told)).caller.user == told


@pytest.mark.parametrize("told", ["", "x" * 256, "a\0", 7, ["ann"]])
def test_what_is_no_name(registry: Registry, home: Path, provider: Provider, clock: Clock, told: Any) -> None:
    oidc = oidc_of(registry, home, provider, clock, oidc_create_users=True, oidc_user_claim="login")
    with pytest.raises(NotAuthenticated, match="claim login names no user"):
        session_of(oidc, provider.token(login=told))


TABLE = {"boss": "lead", "data": '"Data Team"', "root": "ACCOUNTADMIN"}


@pytest.mark.parametrize(
    ("told", "role"),
    [
        ("boss", "LEAD"),
        (["nobody", "boss"], "LEAD"),
        (["board", "boss"], "BOARD"),
        (["boss", "board"], "LEAD"),
        ("data", "Data Team"),
        ("Data Team", "Data Team"),
        ("analyst", "ANALYST"),
        ([7, "", "x" * 256, "a\0", "Board"], "BOARD"),
        ("Boss", "SALES"),
        ("root", "SALES"),
        ("accountadmin", "SALES"),
        ("public", "PUBLIC"),
        ("unheard-of", "SALES"),
        (None, "SALES"),
        (7, "SALES"),
        ({"boss": "boss"}, "SALES"),
    ],
)
@pytest.mark.usefixtures("ann_leads")
def test_roles_that_a_claim_names(
    registry: Registry, home: Path, provider: Provider, clock: Clock, told: Any, role: str
) -> None:
    oidc = oidc_of(registry, home, provider, clock, oidc_role_claim="groups", oidc_roles=TABLE)
    assert session_of(oidc, provider.token(groups=told)).caller == ANN.model_copy(update={"role": role})


@pytest.mark.usefixtures("ann_leads")
def test_a_claim_that_no_setting_names_gives_no_role(
    registry: Registry, home: Path, provider: Provider, clock: Clock
) -> None:
    token = provider.token(groups="boss", roles="boss", role="boss")
    assert session_of(oidc_of(registry, home, provider, clock, oidc_roles=TABLE), token).caller == ANN


def test_a_default_is_of_the_roles_that_are_the_users_own(
    registry: Registry, home: Path, provider: Provider, clock: Clock
) -> None:
    oidc = oidc_of(registry, home, provider, clock)

    def role() -> str:
        return session_of(oidc, provider.token()).caller.role

    assert role() == "SALES", "ANALYST comes before it, but was granted to the role"
    registry.roles.grant(ADMIN, "ANALYST", USER)
    assert role() == "ANALYST"
    registry.users.set_default_role(ADMIN, "ANN", "SALES")
    assert role() == "SALES"
    registry.roles.revoke(ADMIN, "SALES", USER)
    assert role() == "ANALYST"
    registry.roles.revoke(ADMIN, "ANALYST", USER)
    assert role() == "PUBLIC"


@pytest.mark.usefixtures("ann_leads")
def test_a_token_acts_in_each_role_of_its_user(
    registry: Registry, home: Path, provider: Provider, clock: Clock
) -> None:
    oidc = oidc_of(registry, home, provider, clock, oidc_role_claim="groups")
    check = KeyCheck(registry, Epoch(registry.versions.epoch), oidc)
    header = f"Bearer {provider.token(groups='board')}"

    async def acting(*roles: str | None) -> list[str]:
        return [(await check.session(header, role)).caller.role for role in roles]

    asked = (None, "lead", "analyst", '"Data Team"', "PUBLIC", "board")
    assert asyncio.run(acting(*asked)) == ["BOARD", "LEAD", "ANALYST", "Data Team", "PUBLIC", "BOARD"]
    for written, other in (("accountadmin", "ACCOUNTADMIN"), ("nothing", "NOTHING"), ('"lead"', "lead")):
        with pytest.raises(NotAllowed, match=f"User ANN does not have the role {other}."):
            asyncio.run(acting(written))
