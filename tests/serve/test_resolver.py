"""Names to adapters: fresh, stale, missing; and a registry that does not answer is not a missing model."""

import asyncio

import pytest

from luthier.errors import NotFound, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.names import parse_name
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.resolver import FRESH_SECONDS, Resolver
from tests.factories import ADMIN, make_finished, make_job
from tests.fakes import Clock

TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def resolver(settings: Settings, registry: Registry, clock: Clock) -> Resolver:
    return Resolver(settings, load_catalog(settings), registry.versions, clock)


def make_model(registry: Registry, job_id: str = "ft_1", model: str = "LUTHIER.PUBLIC.TUNED") -> None:
    registry.jobs.submit(make_job(job_id, model))
    registry.jobs.tick()
    registry.jobs.finish(job_id, make_finished())


def job_of(resolver: Resolver, model: str = "tuned") -> str:
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
