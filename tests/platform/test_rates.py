"""Rate limits in the registry: set, shown, unset; a minute's allowance is leased once, whatever is asked twice."""

from collections.abc import Sequence

import pytest

from luthier.errors import InvalidInput, NotAllowed, NotFound
from luthier.platform.access import Caller
from luthier.platform.rates import (
    MINUTE_MS,
    Asker,
    Limited,
    RateGrant,
    RateLimit,
    RateName,
    RateRenewal,
    RateWant,
    Unit,
    over_limit,
)
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import ADMIN, add_admin
from tests.fakes import Clock, Launcher

pytestmark = pytest.mark.stores
ON_MODEL = RateName("main", "", "tiny", Unit.REQUESTS)


@pytest.fixture
def time() -> Clock:
    return Clock(10 * MINUTE_MS + 15_000)


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, time: Clock) -> Registry:
    registry = Registry(settings, launcher, time)
    add_admin(registry)
    return registry


def ask(registry: Registry, want: RateWant | None, holder: str = "r1", asking: Sequence[Asker] = ()) -> RateRenewal:
    return registry.rates.renew(holder, asking, [want] if want else [])


def want(turn: int, total: int, need: int, minute: int = 10) -> RateWant:
    return RateWant(name=ON_MODEL, minute=minute, turn=turn, total=total, need=need)


def granted(registry: Registry, each: RateWant, holder: str = "r1") -> tuple[int | None, int]:
    (grant,) = ask(registry, each, holder).grants
    return grant.total, grant.left


def test_set_shown_and_unset(registry: Registry) -> None:
    key = registry.keys.show(ADMIN)[0].id
    limits = [
        RateLimit(model="tiny", requests=5, tokens=100),
        RateLimit(key=key, tokens=7),
        RateLimit(key=key, model="tiny", requests=0),
    ]
    for limit in (*limits, *limits):
        assert registry.rates.set(ADMIN, limit) == limit
    assert sorted(registry.rates.show(ADMIN), key=str) == sorted(limits, key=str)
    assert registry.rates.policies(ADMIN) == limits[:1]
    registry.rates.set(ADMIN, RateLimit(model="tiny", tokens=9))
    assert RateLimit(model="tiny", tokens=9) in registry.rates.show(ADMIN)
    assert registry.rates.unset(ADMIN, None, "tiny") == RateLimit(model="tiny", tokens=9)
    with pytest.raises(NotFound):
        registry.rates.unset(ADMIN, None, "tiny")
    assert len(registry.rates.show(ADMIN)) == 2


def test_what_no_limit_can_be(registry: Registry) -> None:
    for limit in (RateLimit(requests=1), RateLimit(model="tiny")):
        with pytest.raises(InvalidInput):
            registry.rates.set(ADMIN, limit)
    with pytest.raises(NotFound):
        registry.rates.set(ADMIN, RateLimit(key="key_of_nobody", requests=1))
    ann = Caller(account="main", user="ANN", role="PUBLIC")
    for verb in (
        lambda: registry.rates.set(ann, RateLimit(model="tiny", requests=1)),
        lambda: registry.rates.show(ann),
    ):
        with pytest.raises(NotAllowed):
            verb()


def test_who_may_not_see_usage_is_told_of_base_models(registry: Registry) -> None:
    for model in ("tiny", "LUTHIER.PUBLIC.TUNED"):
        registry.rates.set(ADMIN, RateLimit(model=model, requests=1))
    ann = Caller(account="main", user="ANN", role="PUBLIC")
    assert [limit.model for limit in registry.rates.policies(ann)] == ["tiny"]
    assert len(registry.rates.policies(ADMIN)) == 2


def test_who_is_limited_by_what(registry: Registry) -> None:
    key = registry.keys.show(ADMIN)[0].id
    for limit in (
        RateLimit(model="tiny", requests=5),
        RateLimit(key=key, tokens=7),
        RateLimit(key=key, model="b", tokens=1),
    ):
        registry.rates.set(ADMIN, limit)
    asking = [
        Asker("main", key, "tiny"),
        Asker("main", "other", "tiny"),
        Asker("main", key, "b"),
        Asker("x", key, "tiny"),
    ]
    own = Limited(RateName("main", key, "", Unit.TOKENS), 7)
    on_tiny = Limited(ON_MODEL, 5)
    on_b = Limited(RateName("main", key, "b", Unit.TOKENS), 1)
    told = ask(registry, None, asking=asking)
    assert (told.minute, told.left_ms) == (10, 45_000)
    assert [set(limits) for limits in told.limits] == [{own, on_tiny}, {on_tiny}, {own, on_b}, set()]


def test_a_minute_is_shared_by_holders(registry: Registry, time: Clock) -> None:
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=10))
    assert granted(registry, want(1, 8, 1)) == (2, 8)  # a quarter beyond what is needed
    assert granted(registry, want(1, 6, 6), "r2") == (6, 2)
    assert granted(registry, want(2, 9, 9)) == (4, 0)
    assert granted(registry, want(2, 9, 9)) == (4, 0)
    assert granted(registry, want(2, 1, 1), "r2") == (1, 5)
    assert granted(registry, want(1, 9, 9), "r2") == (1, 5), "late"
    assert granted(registry, want(3, 9, 9)) == (9, 0)
    assert granted(registry, want(1, 4, 0, minute=11)) == (2, 8)
    assert granted(registry, want(1, 4, 4, minute=12)) == (None, 0)
    time.now += MINUTE_MS
    assert granted(registry, want(4, 9, 9)) == (None, 0)
    assert granted(registry, want(2, 9, 9, minute=11)) == (9, 1)


def test_a_registry_that_comes_back_knows_what_it_leased(
    registry: Registry, settings: Settings, launcher: Launcher, time: Clock
) -> None:
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=10))
    granted(registry, want(1, 9, 9))
    again = Registry(settings, launcher, time)
    assert granted(again, want(1, 9, 9), "r2") == (1, 0)


def test_a_limit_that_is_gone_or_lowered(registry: Registry) -> None:
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=10))
    granted(registry, want(1, 9, 9))
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=3))
    assert granted(registry, want(2, 12, 12)) == (9, 0)
    registry.rates.unset(ADMIN, None, "tiny")
    assert granted(registry, want(3, 12, 12))[0] == 12


def test_old_minutes_are_forgotten(registry: Registry, time: Clock) -> None:
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=10))
    granted(registry, want(1, 9, 9))
    time.now += 100 * MINUTE_MS
    granted(registry, want(1, 9, 9, minute=110))
    assert len(registry.rates._store.rows(registry.rates._leases.select())) == 1


def test_a_refusal_says_what_and_when() -> None:
    limited = Limited(RateName("main", "key_1", "tiny", Unit.TOKENS), 100)
    error = over_limit(limited, 60, 40, 12)
    assert "of key key_1 on model tiny" in error.message
    assert "100 tokens per minute, 40 remaining, 60 asked for. Try again in 12 s." in error.message
    assert error.retry_after == 12
    assert over_limit(limited, 101, 100, 12).retry_after is None
    assert RateGrant(total=None, left=0).total is None
