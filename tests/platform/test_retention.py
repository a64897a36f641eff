"""Jobs that ended long ago go, with events and run files; models, usage and the data that made a model stay."""

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from luthier.errors import NotFound
from luthier.platform.jobs import JobError
from luthier.platform.metering import DAY_MS, UsageKind
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN, add_admin, ledger_of, make_finished, make_job, make_settings
from tests.fakes import Clock, Launcher

pytestmark = pytest.mark.stores

DAYS = 30


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    return make_settings(home, tmp_path / "no-weights", job_retention_days=DAYS)


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = 1_000 * DAY_MS
    return clock


@pytest.fixture
def registry(settings: Settings, clock: Clock) -> Registry:
    registry = Registry(settings, Launcher(num_jobs=5), clock=lambda: int(clock.now))
    add_admin(registry)
    return registry


def run(registry: Registry, settings: Settings, clock: Clock, job_id: str, model: str, **given: str) -> None:
    """Until it is under way, with its folders."""
    registry.jobs.submit(make_job(job_id, f"LUTHIER.PUBLIC.{model}", **given))
    registry.jobs.tick()
    for folder in (settings.storage / "runs" / job_id, settings.storage / "jobs" / job_id):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"1234")
        os.utime(folder, (clock.now / 1000, clock.now / 1000))


def collected(registry: Registry) -> list[str]:
    while registry.retention.forget():
        continue
    return [f"{each.path.parent.name}/{each.path.name}" for each in registry.retention.orphans()]


def test_an_old_job_goes_and_what_it_made_stays(registry: Registry, settings: Settings, clock: Clock) -> None:
    run(registry, settings, clock, "ft_a", "A")
    registry.jobs.finish("ft_a", make_finished())
    clock.now += DAYS * DAY_MS
    assert collected(registry) == []
    assert [job.id for job in registry.jobs.show(ADMIN)] == ["ft_a"]
    clock.now += 1
    assert collected(registry) == ["runs/ft_a"]
    assert registry.jobs.show(ADMIN) == []
    with pytest.raises(NotFound, match="No fine-tuning job"):
        registry.jobs.news(ADMIN, "ft_a")
    store = Store(settings.store_url)
    assert store.rows(sa.select(store.table("events"))) == []
    assert [record.source_id for record in ledger_of(registry, UsageKind.TRAINING)] == ["ft_a"]
    (model,) = registry.models.show(ADMIN)
    assert model.job_id == "ft_a"


def test_a_job_that_made_nothing_takes_its_data_along(registry: Registry, settings: Settings, clock: Clock) -> None:
    run(registry, settings, clock, "ft_a", "A")
    registry.jobs.fail("ft_a", JobError(code="BAD", message="bad"), billable=False)
    clock.now += DAYS * DAY_MS + 1
    assert collected(registry) == ["runs/ft_a", "jobs/ft_a"]
    assert collected(registry) == ["runs/ft_a", "jobs/ft_a"]  # until somebody has removed them


def test_a_job_that_runs_stays_however_old(registry: Registry, settings: Settings, clock: Clock) -> None:
    run(registry, settings, clock, "ft_a", "A")
    clock.now += 10 * DAYS * DAY_MS
    assert collected(registry) == []
    assert [job.id for job in registry.jobs.show(ADMIN)] == ["ft_a"]


def test_checkpoints_that_a_job_began_with_stay(registry: Registry, settings: Settings, clock: Clock) -> None:
    run(registry, settings, clock, "ft_a", "A")
    registry.jobs.cancel(ADMIN, "ft_a")
    clock.now += DAYS * DAY_MS + 1
    run(registry, settings, clock, "ft_b", "B", start_path=str(settings.storage / "runs" / "ft_a" / "step-000001"))
    assert collected(registry) == ["jobs/ft_a"]
    registry.jobs.cancel(ADMIN, "ft_b")
    assert "runs/ft_a" in collected(registry)


def test_data_of_a_job_that_is_being_created_stays(registry: Registry, settings: Settings, clock: Clock) -> None:
    folder = settings.storage / "jobs" / "ft_new"
    folder.mkdir(parents=True)
    os.utime(folder, (clock.now / 1000, clock.now / 1000))
    assert collected(registry) == []


def test_nothing_goes_when_all_is_kept(home: Path, tmp_path: Path, clock: Clock) -> None:
    settings = make_settings(home, tmp_path / "no-weights", job_retention_days=0)
    registry = Registry(settings, Launcher(), clock=lambda: int(clock.now))
    add_admin(registry)
    run(registry, settings, clock, "ft_a", "A")
    registry.jobs.cancel(ADMIN, "ft_a")
    clock.now += 10_000 * DAY_MS
    assert collected(registry) == []
