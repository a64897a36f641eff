"""Keys that a token of an identity provider makes: they end, whoever is asked to make them last longer."""

from pathlib import Path
from typing import Any

import pytest

from luthier.errors import NotAllowed, NotAuthenticated
from luthier.platform.access import Caller, hash_key, new_key
from luthier.platform.keys import NewKey, new_key_id
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ObjectKind, Securable
from tests.factories import ADMIN, make_settings
from tests.fakes import Clock, Launcher

DAY = 24 * 3600 * 1000
NOW = 1_000_000
ANN = Caller(account=ADMIN.account, user="ANN", role="SALES")
"""Without a key: by a token."""
PROVIDER = {"oidc_issuer": "https://issuer.example", "oidc_audience": "luthier"}


@pytest.fixture
def now() -> Clock:
    return Clock(NOW)


def registry_of(home: Path, now: Clock, **given: Any) -> Registry:
    registry = Registry(make_settings(home, home / "none", **{**PROVIDER, **given}), Launcher(), clock=now)
    registry.access.add_admin_key(ADMIN.account, hash_key("first"), "first")
    registry.users.create(ADMIN, "ANN")
    registry.roles.create(ADMIN, "SALES")
    registry.roles.grant(ADMIN, "SALES", Securable(ObjectKind.USER, name="ANN"))
    return registry


@pytest.fixture
def registry(home: Path, now: Clock) -> Registry:
    return registry_of(home, now)


def draw(expires_on: int | None = None, **given: Any) -> tuple[str, NewKey]:
    secret = new_key()
    return secret, NewKey(id=new_key_id(), hash=hash_key(secret), prefix=secret[:7], expires_on=expires_on, **given)


def by_key(registry: Registry, secret: str) -> Caller:
    return registry.keys.authenticate(hash_key(secret)).caller


def test_it_ends(registry: Registry, now: Clock) -> None:
    secret, new = draw()
    assert registry.keys.create(ANN, new).expires_on == NOW + 90 * DAY
    now.now = NOW + 90 * DAY - 1
    assert by_key(registry, secret).user == "ANN"
    now.now += 1
    with pytest.raises(NotAuthenticated, match="expired"):
        by_key(registry, secret)


def test_it_may_end_sooner_and_not_later(registry: Registry) -> None:
    for end in (NOW + DAY, NOW + 90 * DAY):
        assert registry.keys.create(ANN, draw(end)[1]).expires_on == end
    with pytest.raises(NotAllowed, match="A token makes no key that lives longer than until 1970-04-01"):
        registry.keys.create(ANN, draw(NOW + 90 * DAY + 1)[1])


def test_what_it_makes_ends_with_it(registry: Registry, now: Clock) -> None:
    secret, new = draw()
    registry.keys.create(ANN, new)
    now.now += DAY
    caller, longer = by_key(registry, secret), NOW + 90 * DAY + 1
    assert registry.keys.create(caller, draw()[1]).expires_on == NOW + 90 * DAY
    assert registry.keys.rotate(caller, new.id, draw()[1], 0).expires_on == NOW + 90 * DAY
    with pytest.raises(NotAllowed, match="lives longer"):
        registry.keys.create(caller, draw(longer)[1])


def test_a_key_without_an_end_is_rotated_to_one_with(registry: Registry) -> None:
    (first,) = registry.keys.show(ADMIN)
    secret, endless = draw(user="ANN", role="SALES")
    maker = ADMIN.model_copy(update={"key": first.id})
    assert registry.keys.create(maker, endless).expires_on is None
    with pytest.raises(NotAllowed, match="Say when it ends"):
        registry.keys.rotate(ANN, endless.id, draw()[1], 0)
    assert by_key(registry, secret), "it works on"
    assert registry.keys.rotate(ANN, endless.id, draw(NOW + 90 * DAY)[1], 0).expires_on == NOW + 90 * DAY


def test_a_key_for_somebody_else_ends_too(registry: Registry) -> None:
    assert registry.keys.create(ADMIN, draw(user="ANN")[1]).expires_on == NOW + 90 * DAY


def test_the_days_are_a_setting(home: Path, now: Clock) -> None:
    assert registry_of(home, now, oidc_max_key_days=1).keys.create(ANN, draw()[1]).expires_on == NOW + DAY


def test_tokens_may_make_none(home: Path, now: Clock) -> None:
    registry = registry_of(home, now, oidc_max_key_days=0)
    with pytest.raises(NotAllowed, match="A token makes no keys here"):
        registry.keys.create(ANN, draw(NOW + 1)[1])
    (first,) = registry.keys.show(ADMIN)
    with pytest.raises(NotAllowed, match="A token makes no keys here"):
        registry.keys.rotate(ADMIN, first.id, draw(NOW + 1)[1], 0)
    assert registry.keys.create(ADMIN.model_copy(update={"key": first.id}), draw()[1]).expires_on is None
