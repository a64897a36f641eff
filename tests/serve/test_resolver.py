"""Names to adapters: fresh, stale, missing; and a registry that does not answer is not a missing model."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from luthier.errors import NotFound, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.credits import ALONE_SECONDS
from luthier.platform.names import parse_name
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.known import Epoch
from luthier.serve.resolver import FRESH_SECONDS, Resolver
from tests.factories import ADMIN, make_finished, make_job, make_record
from tests.fakes import Clock, Way

TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(settings: Settings, registry: Registry, clock: Clock) -> Resolver:
    verbs = cast(Registry, Way(registry))  # as they are when they are asked
    return Resolver(settings, load_catalog(settings), verbs.versions, Epoch(verbs.versions.epoch, clock))


def make_model(registry: Registry, job_id: str = "ft_1", model: str = "LUTHIER.PUBLIC.TUNED") -> None:
    registry.jobs.submit(make_job(job_id, model))
    registry.jobs.tick()
    registry.jobs.finish(job_id, make_finished())


def job_of(resolver: Resolver, model: str = "tuned") -> str | None:
    resolved = asyncio.run(resolver.resolve(ADMIN, model))
    assert resolved.adapter is not None
    return resolved.adapter.job_id


def test_a_base_model_has_no_adapter(resolver: Resolver) -> None:
    resolved = asyncio.run(resolver.resolve(ADMIN, "tiny"))
    assert (resolved.name, resolved.base_model, resolved.adapter) == ("tiny", "tiny", None)


@pytest.mark.parametrize("written", ["tuned", "PUBLIC.Tuned", 'luthier.public."TUNED"'])
def test_a_tuned_model_in_all_spellings(resolver: Resolver, registry: Registry, written: str) -> None:
    make_model(registry)
    resolved = asyncio.run(resolver.resolve(ADMIN, written))
    assert (resolved.name, resolved.base_model) == ("LUTHIER.PUBLIC.TUNED", "tiny")
    assert job_of(resolver, written) == "ft_1"


def test_fresh_then_stale(resolver: Resolver, registry: Registry, clock: Clock) -> None:
    make_model(registry)
    assert job_of(resolver) == "ft_1"
    registry.models.drop(ADMIN, TUNED)
    make_model(registry, "ft_2")
    clock.now += FRESH_SECONDS * 0.99
    assert job_of(resolver) == "ft_1"
    clock.now += FRESH_SECONDS * 0.02
    assert job_of(resolver) == "ft_2"


def test_a_dropped_model_is_gone_once_stale(resolver: Resolver, registry: Registry, clock: Clock) -> None:
    make_model(registry)
    assert job_of(resolver) == "ft_1"
    registry.models.drop(ADMIN, TUNED)
    clock.now += FRESH_SECONDS
    with pytest.raises(NotFound):
        job_of(resolver)


def test_misses_are_not_remembered(resolver: Resolver, registry: Registry) -> None:
    with pytest.raises(NotFound, match="Unknown model 'tuned'"):
        job_of(resolver)
    make_model(registry)
    assert job_of(resolver) == "ft_1"


def test_a_model_that_is_still_made_says_so(resolver: Resolver, registry: Registry) -> None:
    registry.jobs.submit(make_job())
    with pytest.raises(NotFound, match=r"not ready: job ft_1 is making it \(PENDING\)"):
        job_of(resolver)


def test_a_name_that_is_none(resolver: Resolver) -> None:
    with pytest.raises(NotFound, match=r"Unknown model 'smollm3-1b', not a base model.*'-'"):
        job_of(resolver, "smollm3-1b")


def test_a_registry_that_is_away_is_not_a_missing_model(
    resolver: Resolver, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("The registry does not answer.")

    monkeypatch.setattr(registry.versions, "serving", away)
    with pytest.raises(Unavailable):
        job_of(resolver)


def test_many_callers_are_one_question(resolver: Resolver, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(registry)
    get, asked = registry.versions.serving, []
    monkeypatch.setattr(registry.versions, "serving", lambda *about: asked.append(about) or get(*about))

    async def callers() -> set[str]:
        found = await asyncio.gather(*(resolver.resolve(ADMIN, "tuned") for _ in range(64)))
        return {resolved.name for resolved in found}

    assert asyncio.run(callers()) == {"LUTHIER.PUBLIC.TUNED"}
    assert len(asked) == 1


class Counted:
    """The verbs, and how often each is asked."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[str] = Counter()
        for name in ("serving", "epoch"):
            monkeypatch.setattr(registry.versions, name, self._counting(name, getattr(registry.versions, name)))

    def _counting(self, name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(*about: Any) -> Any:
            self.asked[name] += 1
            return verb(*about)

        return call


NAMES = [f"M{number}" for number in range(64)]


def ask_all(resolver: Resolver, times: int = 1) -> None:
    async def ask() -> None:
        await asyncio.gather(*(resolver.resolve(ADMIN, name) for name in NAMES for _ in range(times)))

    asyncio.run(ask())


def test_known_names_are_not_asked_again(
    resolver: Resolver, registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each comes less often than what is remembered is fresh, and the cluster goes on meanwhile."""
    for name in NAMES:
        make_model(registry, f"ft_{name}", f"LUTHIER.PUBLIC.{name}")
    ask_all(resolver)
    verbs = Counted(registry, monkeypatch)
    for number in range(10):
        clock.now += 1.6 * FRESH_SECONDS
        ask_all(resolver, times=20)
        registry.jobs.submit(make_job(f"ft_{number}", f"LUTHIER.PUBLIC.NEW{number}"))
        registry.ledger.append([make_record(f"r{number}")])
    assert verbs.asked == {"epoch": 10}


def test_a_change_is_heeded_in_time(resolver: Resolver, registry: Registry, clock: Clock) -> None:
    """Also of a name whose answer has been given for long."""
    make_model(registry)
    for _ in range(3):
        assert job_of(resolver) == "ft_1"
        clock.now += 5 * FRESH_SECONDS
    registry.jobs.submit(make_job("ft_2", options=FinetuneOptions(new_version=True)))
    registry.jobs.tick()
    registry.jobs.finish("ft_2", make_finished())
    registry.versions.promote(ADMIN, TUNED, 2)
    clock.now += FRESH_SECONDS
    assert job_of(resolver) == "ft_2"
    registry.versions.rollback(ADMIN, TUNED, 2)
    clock.now += FRESH_SECONDS
    assert job_of(resolver) == "ft_1"


def test_a_known_name_outlives_the_registry_by_as_long_as_a_lease(
    resolver: Resolver, registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(registry)
    assert job_of(resolver) == "ft_1"
    assert job_of(resolver) == "ft_1"

    def away() -> None:
        raise Unavailable("The registry does not answer.")

    monkeypatch.setattr(registry.versions, "epoch", away)
    clock.now += ALONE_SECONDS - 0.1
    assert job_of(resolver) == "ft_1"
    clock.now += 0.2
    with pytest.raises(Unavailable):
        job_of(resolver)
