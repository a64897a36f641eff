"""Keys to callers: what is refused, what is remembered, and for how long."""

import asyncio

import pytest

from luthier.errors import NotAuthenticated
from luthier.platform.keys import Session
from luthier.platform.registry.registry import Registry
from luthier.serve.doors.deps import FRESH_SECONDS, KeyCheck
from luthier.serve.known import Epoch
from tests.factories import ADMIN, KEY, add_admin
from tests.fakes import Clock


def check_of(registry: Registry, clock: Clock | None = None) -> KeyCheck:
    return KeyCheck(registry, Epoch(registry.versions.epoch, clock or Clock()))


def revoke(registry: Registry) -> None:
    for key in registry.keys.show(ADMIN):
        registry.keys.revoke(ADMIN, key.id)


@pytest.mark.parametrize(
    "header", [None, "", KEY, f"Basic {KEY}", "Bearer", "Bearer  ", "Snowflake", "Snowflake Token="]
)
def test_a_missing_key(registry: Registry, header: str | None) -> None:
    with pytest.raises(NotAuthenticated, match="Authorization: Bearer KEY"):
        asyncio.run(check_of(registry).session(header))


@pytest.mark.parametrize(
    "header",
    [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER   {KEY} ", f'Snowflake Token="{KEY}"', f"snowflake token={KEY}"],
)
def test_a_good_key(registry: Registry, header: str) -> None:
    assert asyncio.run(check_of(registry).session(header)).caller.identity == ADMIN.identity


@pytest.mark.parametrize("key", [KEY + "x", KEY[:-1], KEY.upper(), "\u00fc"])
def test_a_wrong_key(registry: Registry, key: str) -> None:
    with pytest.raises(NotAuthenticated, match="not known here"):
        asyncio.run(check_of(registry).session(f"Bearer {key}"))


def test_a_wrong_key_is_not_remembered(registry: Registry) -> None:
    check = check_of(registry)
    with pytest.raises(NotAuthenticated):
        asyncio.run(check.session("Bearer lt_new"))
    add_admin(registry, "lt_new")
    assert asyncio.run(check.session("Bearer lt_new")).caller.identity == ADMIN.identity


def test_a_revoked_key_ends_after_a_moment(registry: Registry) -> None:
    clock = Clock()
    check = check_of(registry, clock)
    assert asyncio.run(check.session(f"Bearer {KEY}")).caller.identity == ADMIN.identity
    revoke(registry)
    clock.now += FRESH_SECONDS * 0.99
    assert asyncio.run(check.session(f"Bearer {KEY}")).caller.identity == ADMIN.identity
    clock.now += FRESH_SECONDS * 0.01
    for _ in range(2):
        with pytest.raises(NotAuthenticated, match="revoked"):
            asyncio.run(check.session(f"Bearer {KEY}"))


def test_a_key_revoked_before_is_refused_at_once(registry: Registry) -> None:
    revoke(registry)
    with pytest.raises(NotAuthenticated):
        asyncio.run(check_of(registry).session(f"Bearer {KEY}"))


def test_many_callers_are_one_question(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    authenticate, asked = registry.keys.authenticate, []
    monkeypatch.setattr(registry.keys, "authenticate", lambda *key: asked.append(key) or authenticate(*key))
    check = check_of(registry)

    async def callers() -> list[Session]:
        return await asyncio.gather(*(check.session(f"Bearer {KEY}") for _ in range(64)))

    assert {session.caller.user for session in asyncio.run(callers())} == {ADMIN.user}
    assert len(asked) == 1
