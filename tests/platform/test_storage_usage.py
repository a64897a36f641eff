"""Storage on the bill: bytes x time, once for each account and day, however often it is asked for."""

import os
import shutil
from pathlib import Path
from unittest import mock

import pytest
import sqlalchemy as sa

from luthier.platform.metering import DAY_MS, UsageKind, UsageRecord, storage_usage
from luthier.platform.models import ImportedModel
from luthier.platform.names import parse_name
from luthier.platform.prices import load_prices
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.versions import Versions
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.tasks import TaskType
from tests.factories import ADMIN, add_admin, ledger_of
from tests.fakes import Clock, Launcher
from tests.platform.test_flat import statements

pytestmark = pytest.mark.stores

PRICES = load_prices(configs_dir() / "prices.toml")
START = 100 * DAY_MS
HOUR_MS = DAY_MS // 24
NAME = parse_name("LUTHIER.PUBLIC.M", "", "")


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.now = START
    return clock


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, clock: Clock) -> Registry:
    registry = Registry(settings, launcher, clock=lambda: int(clock.now))
    add_admin(registry)
    return registry


def keep(registry: Registry, settings: Settings, clock: Clock, sha256: str, num_bytes: int, name: str = "M") -> None:
    """A version whose folder has so many bytes."""
    path = settings.storage / "adapters" / sha256
    path.mkdir(parents=True, exist_ok=True)
    (path / "weights").write_bytes(b"w" * num_bytes)
    made = ImportedModel(
        base_model="tiny",
        path=str(path),
        sha256=sha256,
        rank=8,
        task_type=TaskType.CHAT_COMPLETION,
        created_on=int(clock.now),
    )
    registry.models.import_model(ADMIN, parse_name(f"LUTHIER.PUBLIC.{name}", "", ""), made, new_version=True)


def drop(registry: Registry, settings: Settings, sha256: str, name: str = "M") -> None:
    """The model; nothing names its files any more, and they are collected."""
    registry.models.drop(ADMIN, parse_name(f"LUTHIER.PUBLIC.{name}", "", ""))
    shutil.rmtree(settings.storage / "adapters" / sha256)


def billed(registry: Registry) -> list[UsageRecord]:
    registry.ledger.append(registry.storage.due())
    return ledger_of(registry, UsageKind.STORAGE)


def test_a_day_is_billed_when_it_is_over_and_once(registry: Registry, settings: Settings, clock: Clock) -> None:
    keep(registry, settings, clock, "aa", 1000)
    clock.now += DAY_MS - 1
    assert billed(registry) == []
    clock.now += 1
    (record,) = billed(registry)
    assert (record.source_id, record.stored_bytes, record.time) == ("main:1970-04-11", 1000, START + DAY_MS - 1)
    assert billed(registry) == [record]
    clock.now += DAY_MS
    assert [each.source_id for each in billed(registry)] == ["main:1970-04-11", "main:1970-04-12"]


def test_a_part_of_a_day_is_that_part(registry: Registry, settings: Settings, clock: Clock) -> None:
    clock.now += DAY_MS // 4
    keep(registry, settings, clock, "aa", 1000)
    clock.now += DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [750]


def test_days_without_the_platform_are_made_up_for(registry: Registry, settings: Settings, clock: Clock) -> None:
    keep(registry, settings, clock, "aa", 1000)
    clock.now += DAY_MS
    assert len(billed(registry)) == 1
    clock.now += 5 * DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [1000] * 6


def test_one_folder_is_paid_once(registry: Registry, settings: Settings, clock: Clock) -> None:
    keep(registry, settings, clock, "aa", 1000)
    keep(registry, settings, clock, "aa", 1000, name="N")
    keep(registry, settings, clock, "bb", 500)
    clock.now += DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [1500]


@pytest.mark.parametrize(("until", "stored"), [(6 * HOUR_MS, [250]), (DAY_MS, [1000]), (DAY_MS + 1, [1000, 1])])
def test_what_is_dropped_pays_until_then(
    registry: Registry, settings: Settings, clock: Clock, until: int, stored: list[int]
) -> None:
    """In the middle of a day, at its end, and after midnight before the round that bills the day."""
    keep(registry, settings, clock, "aa", 1000)
    clock.now += until
    drop(registry, settings, "aa")
    clock.now += 3 * DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == stored


def test_files_of_two_versions_are_kept_until_the_last_is_dropped(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    keep(registry, settings, clock, "aa", 1000)
    clock.now += 3 * HOUR_MS
    keep(registry, settings, clock, "aa", 1000, name="N")
    clock.now += 3 * HOUR_MS
    registry.models.drop(ADMIN, NAME)
    clock.now += 6 * HOUR_MS
    drop(registry, settings, "aa", name="N")
    clock.now += 6 * HOUR_MS
    keep(registry, settings, clock, "aa", 1000)
    clock.now = START + 2 * DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [750, 1000]


def test_a_version_is_dropped_and_its_span_ends_or_neither(
    registry: Registry, settings: Settings, launcher: Launcher, clock: Clock
) -> None:
    keep(registry, settings, clock, "aa", 1000)
    keep(registry, settings, clock, "bb", 1000)
    clock.now += 12 * HOUR_MS
    with mock.patch.object(Versions, "note", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        registry.models.drop(ADMIN, NAME, 2)
    registry = Registry(settings, launcher, clock=lambda: int(clock.now))
    registry.models.drop(ADMIN, NAME, 2)
    clock.now += 12 * HOUR_MS
    assert [record.stored_bytes for record in billed(registry)] == [1500]


def test_a_bill_that_is_cut_off_goes_on_where_it_was(
    registry: Registry, settings: Settings, launcher: Launcher, clock: Clock
) -> None:
    keep(registry, settings, clock, "aa", 1000)
    clock.now += 12 * HOUR_MS
    keep(registry, settings, clock, "bb", 1000)
    clock.now += 2 * DAY_MS
    due = registry.storage.due()
    registry.ledger.append(due[:1])
    drop(registry, settings, "bb")
    registry = Registry(settings, launcher, clock=lambda: int(clock.now))
    assert registry.storage.due() == due[1:]
    clock.now += DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [1500, 2000, 1000]
    assert registry.ledger.append(due) == 0


def test_the_account_that_has_the_model_pays(registry: Registry, settings: Settings, clock: Clock) -> None:
    registry.access.add_admin_key("other", "hash", "lt_oth")
    keep(registry, settings, clock, "aa", 1000)
    clock.now += DAY_MS
    registry.ledger.append(registry.storage.due())
    assert ledger_of(registry, UsageKind.STORAGE, ADMIN.model_copy(update={"account": "other"})) == []


@pytest.mark.parametrize(
    ("num_bytes", "days", "ucr"),
    [(1 << 30, 30, PRICES.storage), (1, 1, 1), (10 << 20, 30, PRICES.storage // 100)],
)
def test_the_price_is_of_a_gib_for_thirty_days(num_bytes: int, days: int, ucr: int) -> None:
    charged = sum(storage_usage("a", PRICES, num_bytes * DAY_MS, day * DAY_MS).amount_ucr for day in range(days))
    assert ucr <= charged < ucr + days


@pytest.mark.parametrize(("is_known", "stored"), [(True, [1000]), (False, [])])
def test_files_are_measured_once(
    registry: Registry, settings: Settings, clock: Clock, is_known: bool, stored: list[int]
) -> None:
    """When the version is made; whoever removes them behind the platform's back pays until he drops it."""
    keep(registry, settings, clock, "aa", 1000)
    if not is_known:
        forget_sizes(settings)
    for file in Path(settings.storage / "adapters" / "aa").iterdir():
        file.unlink()
    clock.now += DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == stored


def test_what_is_billed_is_looked_at_again_when_a_day_is_over(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    for number in range(5):
        keep(registry, settings, clock, f"{number}", 1000, f"M{number}")
    clock.now += 2 * DAY_MS
    counts = []
    for _ in range(3):
        with statements(registry.storage._store) as sent:
            registry.storage.due()
        counts.append(len(sent))
        registry.ledger.append(registry.storage.due())
    drop(registry, settings, "0", "M0")
    assert registry.storage.due() == []
    assert counts == [counts[0], 1, 1]
    assert counts[0] > 1
    assert [record.stored_bytes for record in billed(registry)] == [5000] * 2


def test_versions_that_come_and_go_are_added_to_those_that_stay(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    """Of all sizes known and not, in two accounts that have the same files."""
    registry.access.add_admin_key("other", "hash", "lt_oth")
    other = ADMIN.model_copy(update={"account": "other"})
    keep(registry, settings, clock, "aa", 1000, "A")
    clock.now += DAY_MS
    for sha256, name in (("bb", "B"), ("cc", "C")):
        keep(registry, settings, clock, sha256, 2000, name)
    forget_sizes(settings)
    clock.now += 6 * HOUR_MS
    keep(registry, settings, clock, "dd", 4000, "D")
    drop(registry, settings, "bb", "B")
    clock.now += 6 * HOUR_MS
    drop(registry, settings, "dd", "D")
    clock.now = START + 4 * DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [
        1000,
        1000 + 2000 + 2000 // 4 + 4000 // 4,
        3000,
        3000,
    ]
    assert ledger_of(registry, UsageKind.STORAGE, other) == []


@pytest.mark.parametrize("is_collected", [False, True])
def test_while_storage_is_away_nothing_is_lost(
    registry: Registry, settings: Settings, clock: Clock, is_collected: bool
) -> None:
    """What was dropped then, and what is kept beside it: where no size was known before, it is billed later."""
    for sha256, num_bytes, name in (("aa", 1000, "M"), ("bb", 3000, "N"), ("cc", 5000, "O")):
        keep(registry, settings, clock, sha256, num_bytes, name)
    forget_sizes(settings)
    clock.now += DAY_MS // 4
    registry.models.drop(ADMIN, NAME)
    away = settings.storage.with_name("away")
    settings.storage.rename(away)
    clock.now += DAY_MS // 4
    registry.models.drop(ADMIN, parse_name("LUTHIER.PUBLIC.N", "", ""))
    clock.now += DAY_MS // 2
    assert billed(registry) == []
    away.rename(settings.storage)
    if is_collected:
        os.utime(settings.storage / "adapters" / "bb", (0, 0))
        (garbage,) = [each for each in registry.artifacts.collect() if each.path.name.startswith("bb")]
        shutil.rmtree(garbage.path)
    assert [record.stored_bytes for record in billed(registry)] == [250 + 1500 + 5000]


def test_a_size_that_is_known_is_billed_while_storage_is_away(
    registry: Registry, settings: Settings, clock: Clock
) -> None:
    keep(registry, settings, clock, "aa", 1000)
    settings.storage.rename(settings.storage.with_name("away"))
    clock.now += DAY_MS
    assert [record.stored_bytes for record in billed(registry)] == [1000]


def forget_sizes(settings: Settings) -> None:
    """As of spans that began before they were measured."""
    engine = sa.create_engine(settings.store_url)
    with engine.begin() as tx:
        tx.execute(sa.text("UPDATE storage_spans SET num_bytes = NULL"))
    engine.dispose()
