"""What is collected from storage, and what is not: whoever names it, whoever may come to name it, and since when."""

import json
import os
from pathlib import Path

import pytest

from luthier.platform.models import ImportedModel
from luthier.platform.names import parse_name
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.tasks import TaskType
from luthier.platform.weights.artifacts import content_of, place
from tests.factories import ADMIN, add_admin, make_finished, make_job
from tests.fakes import Clock, Launcher

pytestmark = pytest.mark.stores

TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")
HOUR = 3_600_000


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = 10**12
    return clock


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, clock: Clock) -> Registry:
    registry = Registry(settings, launcher, clock=lambda: int(clock.now))
    add_admin(registry)
    return registry


def folder(settings: Settings, clock: Clock, name: str, **manifest: str) -> Path:
    """A published folder, as old as the clock."""
    path = settings.storage / "adapters" / name
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"1234")
    (path / "luthier.json").write_text(json.dumps(manifest))
    os.utime(path, (clock.now / 1000, clock.now / 1000))
    return path


def make(registry: Registry, path: Path) -> None:
    kind = TaskType.CHAT_COMPLETION
    made = ImportedModel(base_model="tiny", path=str(path), sha256=path.name, rank=8, task_type=kind, created_on=5)
    registry.models.import_model(ADMIN, TUNED, made, new_version=True)


def collected(registry: Registry) -> list[str]:
    return [each.path.stem for each in registry.artifacts.collect()]


def test_files_stay_for_an_hour_after_the_drop(registry: Registry, settings: Settings, clock: Clock) -> None:
    kept, dropped = (folder(settings, clock, name) for name in ("aa", "bb"))
    make(registry, kept)
    make(registry, dropped)
    clock.now += 5 * HOUR
    assert collected(registry) == []
    registry.models.drop(ADMIN, TUNED, 2)
    clock.now += HOUR
    assert collected(registry) == []
    clock.now += 1
    (garbage,) = registry.artifacts.collect(dry_run=True)
    assert (garbage.path, garbage.num_bytes) == (dropped, 6)
    assert dropped.is_dir()
    assert collected(registry) == ["bb"]
    assert (kept.is_dir(), dropped.exists()) == (True, False)


def test_what_two_versions_share_stays_with_one(registry: Registry, settings: Settings, clock: Clock) -> None:
    path = folder(settings, clock, "aa")
    make(registry, path)
    other = parse_name("LUTHIER.PUBLIC.OTHER", "", "")
    kind = TaskType.CHAT_COMPLETION
    made = ImportedModel(base_model="tiny", path=str(path), sha256="aa", rank=8, task_type=kind, created_on=5)
    registry.models.import_model(ADMIN, other, made)
    registry.models.drop(ADMIN, TUNED)
    clock.now += 5 * HOUR
    assert collected(registry) == []
    registry.models.drop(ADMIN, other)
    clock.now += 5 * HOUR
    assert collected(registry) == ["aa"]


def test_what_a_job_is_about_to_name_stays(registry: Registry, settings: Settings, clock: Clock) -> None:
    made, half, start = (
        folder(settings, clock, "aa", job_id="ft_1"),
        folder(settings, clock, "ft_1.part"),
        folder(settings, clock, "bb"),
    )
    registry.jobs.submit(make_job("ft_1", start_path=str(start)))
    registry.jobs.tick()
    clock.now += 5 * HOUR
    assert collected(registry) == []
    registry.jobs.finish("ft_1", make_finished(made, sha256="aa"))
    assert collected(registry) == ["bb", "ft_1.part"]
    assert (made.is_dir(), half.exists()) == (True, False)


def test_a_removal_that_was_cut_off_is_done_again(registry: Registry, settings: Settings, clock: Clock) -> None:
    folder(settings, clock, "aa")
    clock.now += 5 * HOUR
    assert [collected(registry), collected(registry)] == [["aa"], ["aa"]]


def test_what_is_published_again_is_young_again(settings: Settings, clock: Clock, registry: Registry) -> None:
    def published() -> Path:
        part = settings.storage / "part"
        part.mkdir(parents=True)
        (part / "weights").write_bytes(b"1")
        return place(part, content_of(part), {}, settings.storage / "adapters")

    path = published()
    os.utime(path, (1, 1))
    clock.now = path.joinpath("weights").stat().st_mtime * 1000 + HOUR / 2
    assert published() == path
    assert collected(registry) == []
