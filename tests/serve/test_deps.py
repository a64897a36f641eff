"""Keys to callers: what is refused, what is remembered, and for how long."""

import asyncio

import pytest
import sqlalchemy as sa

from luthier.errors import NotAuthenticated
from luthier.platform.keys import Session
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from luthier.serve.deps import FRESH_SECONDS, KeyCheck
from tests.factories import ADMIN, KEY, add_admin
from tests.fakes import Clock


def revoke(settings: Settings) -> None:
    store = Store(settings.store_url)
    with store.transaction() as tx:
        tx.execute(sa.update(store.table("keys")).values(revoked_on=1))


@pytest.mark.parametrize(
    "header", [None, "", KEY, f"Basic {KEY}", "Bearer", "Bearer  ", "Snowflake", "Snowflake Token="]
)
def test_a_missing_key(registry: Registry, header: str | None) -> None:
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer KEY"):
        asyncio.run(KeyCheck(registry).session(header))


@pytest.mark.parametrize(
    "header",
    [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY} ", f'Snowflake Token="{KEY}"', f"snowflake token={KEY}"],
)
def test_a_good_key(registry: Registry, header: str) -> None:
    assert asyncio.run(KeyCheck(registry).session(header)).caller.identity == ADMIN.identity


@pytest.mark.parametrize("key", [KEY + "x", KEY[:-1], KEY.upper(), "\u00fc"])
def test_a_wrong_key(registry: Registry, key: str) -> None:
    with pytest.raises(NotAuthenticated, match="not known here"):
        asyncio.run(KeyCheck(registry).session(f"Bearer {key}"))


def test_a_wrong_key_is_not_remembered(registry: Registry) -> None:
    check = KeyCheck(registry)
    with pytest.raises(NotAuthenticated):
        asyncio.run(check.session("Bearer lt_new"))
    add_admin(registry, "lt_new")
    assert asyncio.run(check.session("Bearer lt_new")).caller.identity == ADMIN.identity


def test_a_revoked_key_ends_after_a_moment(registry: Registry, settings: Settings) -> None:
    clock = Clock()
    check = KeyCheck(registry, clock)
    assert asyncio.run(check.session(f"Bearer {KEY}")).caller.identity == ADMIN.identity
    revoke(settings)
    clock.now += FRESH_SECONDS * 0.99
    assert asyncio.run(check.session(f"Bearer {KEY}")).caller.identity == ADMIN.identity
    clock.now += FRESH_SECONDS * 0.01
    for _ in range(2):
        with pytest.raises(NotAuthenticated, match="revoked"):
            asyncio.run(check.session(f"Bearer {KEY}"))


def test_a_key_revoked_before_is_refused_at_once(registry: Registry, settings: Settings) -> None:
    revoke(settings)
    with pytest.raises(NotAuthenticated):
        asyncio.run(KeyCheck(registry).session(f"Bearer {KEY}"))


def test_many_callers_are_one_question(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticate, asked = registry.keys.authenticate, []
    monkeypatch.setattr(registry.keys, "authenticate", lambda *key: asked.append(key) or authenticate(*key))
    check = KeyCheck(registry)

    async def callers() -> list[Session]:
        return await asyncio.gather(*(check.session(f"Bearer {KEY}") for _ in range(64)))

    assert {session.caller.user for session in asyncio.run(callers())} == {ADMIN.user}
    assert len(asked) == 1
