"""The ledger against the counters: equal after any death of a replica; every loss and every surplus is found."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from luthier.errors import Unavailable
from luthier.platform.credits import Budget, BudgetKind, Period
from luthier.platform.metering import DAY_MS, UsageKind, UsageRecord
from luthier.platform.registry.reconcile import Reconciliation
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.settled import EngineCounts, Settled, SettledFiles, Totals
from luthier.platform.store import Store
from luthier.serve.metering.living import PROCESS
from luthier.serve.metering.usage import UsageSpool
from tests.factories import ADMIN, ledger_of, make_finished, make_job, make_record
from tests.forging import forging
from tests.serve.spools import DEAD

pytestmark = pytest.mark.stores

NOW = 10**15
"""After every `began`."""


@pytest.fixture
def folder(settings: Settings) -> Path:
    return settings.home / "spool" / "tiny"


def record(name: str, **given: object) -> UsageRecord:
    return make_record(name, time=NOW, **given)


def differences(report: Reconciliation, check: str = "completions") -> dict[str, int]:
    return {each.what: each.difference for each in report.checks if each.check == check}


def settled(registry: Registry, folder: Path, *names: str) -> UsageSpool:
    spool = UsageSpool(folder, registry.ledger.append)
    for name in names:
        spool.settle(record(name))
    return spool


def test_what_is_settled_and_flushed_is_equal(registry: Registry, folder: Path) -> None:
    spool = settled(registry, folder, "a", "b")
    report = registry.reconcile.report()
    (records,) = [each for each in report.checks if each.what == "records"]
    assert (records.counted, records.waiting, records.ledger, report.is_equal) == (2, 2, 0, True)
    spool.flush()
    report = registry.reconcile.report()
    (records,) = [each for each in report.checks if each.what == "records"]
    assert (records.counted, records.waiting, records.ledger, report.is_equal) == (2, 0, 2, True)
    spool.settle(record("c"))
    spool.flush()
    assert registry.reconcile.report().is_equal


def test_a_record_that_the_ledger_lost_is_found(registry: Registry, folder: Path, settings: Settings) -> None:
    settled(registry, folder, "a", "b").flush()
    store = Store(settings.store_url)
    with store.transaction() as tx, forging(tx, "usage"):
        tx.execute(sa.delete(store.table("usage")).where(store.table("usage").c.source_id == "a"))
    report = registry.reconcile.report()
    assert not report.is_equal
    assert differences(report) == {"records": 1, "prompt_tokens": 3, "completion_tokens": 2, "amount_ucr": 1}


def test_a_record_that_no_replica_counted_is_found(registry: Registry, folder: Path) -> None:
    settled(registry, folder, "a").flush()
    registry.ledger.append([record("forged", amount_ucr=100)])
    assert differences(registry.reconcile.report())["amount_ucr"] == -100


def test_a_record_that_is_refused_is_a_difference(registry: Registry, folder: Path) -> None:
    registry.ledger.append([record("a", prompt_tokens=9)])
    settled(registry, folder, "a").flush()
    assert differences(registry.reconcile.report())["prompt_tokens"] == -6


def died(folder: Path) -> None:
    """What this process has settled is a dead one's."""
    for file in [*folder.glob("*.jsonl"), *folder.glob("*.settled")]:
        file.rename(file.with_name(file.name.replace(str(PROCESS), str(DEAD))))


def checked(registry: Registry, what: str = "records") -> tuple[int, int, int, int, str]:
    """Counted, waiting, in the ledger, the difference and what is said of it."""
    (each,) = [each for each in registry.reconcile.report().checks if each.what == what]
    return each.counted, each.waiting, each.ledger, each.difference, each.note


TWICE = "of second answers to requests, which are billed once"


def answered_twice(registry: Registry, folder: Path) -> None:
    """Who answered `a` is dead, its usage not in the ledger; another has answered it again, and is billed."""
    settled(registry, folder, "a", "b")
    died(folder)
    other = folder.with_name("other")
    again = UsageSpool(other, registry.ledger.append)
    again.settle(record("a").model_copy(update={"time": NOW + 1, "completion_tokens": 7, "amount_ucr": 4}))
    again.flush()
    for file in other.iterdir():  # replicas of a base model have one folder
        file.rename(folder / file.name)
    other.rmdir()


def test_a_second_answer_to_a_request_is_no_difference(registry: Registry, folder: Path) -> None:
    answered_twice(registry, folder)
    assert checked(registry) == (3, 1, 1, 0, f"1 {TWICE}"), "before anybody has followed the dead"
    for _ in range(2):
        UsageSpool(folder, registry.ledger.append).flush()
        assert checked(registry) == (3, 0, 2, 0, f"1 {TWICE}")
        assert checked(registry, "completion_tokens") == (11, 0, 9, 0, f"2 {TWICE}")
    bills = {each.source_id: each.amount_ucr for each in ledger_of(registry)}
    assert bills == {"a": 4, "b": 1}


def test_heirs_that_die_count_a_second_answer_once(registry: Registry, folder: Path) -> None:
    answered_twice(registry, folder)
    left = {file: file.read_text() for file in folder.glob("*.jsonl")}
    for _ in range(3):
        UsageSpool(folder, registry.ledger.append).flush()
        for file, text in left.items():
            file.write_text(text)  # as of an heir that ended before it removed the file
        assert checked(registry) == (3, 0, 2, 0, f"1 {TWICE}")


@pytest.mark.parametrize("who", [{"user": "bob"}, {"key": "key_2"}, {"account": "other"}, {"function": "COMPLETIONS"}])
def test_an_answer_under_the_id_of_somebody_else_is_a_difference(
    registry: Registry, folder: Path, who: dict[str, str]
) -> None:
    registry.access.add_admin_key("other", "hash", "lt_")
    registry.ledger.append([record("a").model_copy(update={"time": NOW + 1, "prompt_tokens": 9, **who})])
    settled(registry, folder, "a").flush()
    assert checked(registry, "prompt_tokens") == (3, 0, 9, -6, "")


def test_an_heir_counts_what_the_dead_left_behind_once(registry: Registry, folder: Path) -> None:
    spool = settled(registry, folder, "a")
    spool.flush()
    spool.settle(record("b"))
    for file in [*folder.glob("*.jsonl"), *folder.glob("*.settled")]:
        file.rename(file.with_name(file.name.replace(str(PROCESS), str(DEAD))))
    assert registry.reconcile.report().is_equal

    def away(_records: list[UsageRecord]) -> int:
        raise Unavailable("away")

    for _ in range(2):  # heirs that count and die before the ledger answers
        with pytest.raises(Unavailable):
            UsageSpool(folder, away).flush()
        assert registry.reconcile.report().is_equal
    UsageSpool(folder, registry.ledger.append).flush()
    report = registry.reconcile.report()
    (records,) = [each for each in report.checks if each.what == "records"]
    assert (records.counted, records.waiting, records.ledger, report.is_equal) == (2, 0, 2, True)


def test_a_process_with_a_dead_ones_id_goes_on_from_its_numbers(registry: Registry, folder: Path) -> None:
    settled(registry, folder, "a").flush()
    for file in folder.glob("*.jsonl"):
        file.unlink()  # its last one, empty
    settled(registry, folder, "b").flush()
    report = registry.reconcile.report()
    assert differences(report)["records"] == 0
    assert report.checks[0].counted == 2


def test_files_are_counted_in_the_order_of_their_numbers(registry: Registry, folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in (2, 10):
        (folder / f"{DEAD}-{number}.jsonl").write_text(record(f"r{number}").model_dump_json() + "\n")
    UsageSpool(folder, registry.ledger.append).flush()
    assert registry.reconcile.report().is_equal
    assert SettledFiles(folder).of(DEAD).totals.records == 2


@pytest.mark.parametrize("name", ["foo", "1-2", "\u0661"])
def test_a_strangers_file_stops_nothing(registry: Registry, folder: Path, name: str) -> None:
    settled(registry, folder, "a").flush()
    (folder / f"{name}.settled").write_text("no totals")
    report = registry.reconcile.report()
    assert report.is_equal
    assert report.checks[0].counted == 1


def test_what_is_older_than_the_counters_is_told_not_hidden(registry: Registry, folder: Path) -> None:
    registry.ledger.append([make_record("old", time=5)])
    settled(registry, folder, "a").flush()
    report = registry.reconcile.report()
    assert report.is_equal
    assert report.notes == ["1 completions on tiny are older than its replicas' counters."]


def test_lines_of_batches_are_no_replicas(registry: Registry, folder: Path) -> None:
    settled(registry, folder, "a").flush()
    registry.ledger.append([record("batch_1-0")])
    report = registry.reconcile.report()
    assert differences(report)["records"] == 0
    assert differences(report, "batches") == {"lines": -1}


def trained(registry: Registry, folder: Path, **manifest: int) -> None:
    folder.mkdir()
    (folder / "luthier.json").write_text(json.dumps({"trained_tokens": 60, **manifest}))
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished(folder, evaluated_tokens=21))


def test_trained_tokens_are_those_of_job_and_manifest(registry: Registry, tmp_path: Path) -> None:
    trained(registry, tmp_path / "adapter", evaluated_tokens=21)
    report = registry.reconcile.report()
    for what, tokens in (("trained_tokens", 60), ("evaluated_tokens", 21)):
        told = [(each.check, each.counted, each.ledger) for each in report.checks if each.what == what]
        assert (told, report.is_equal) == ([("training", tokens, tokens), ("manifests", tokens, tokens)], True)


def test_a_manifest_of_before_they_were_counted_tells_nothing_of_evaluations(
    registry: Registry, tmp_path: Path
) -> None:
    trained(registry, tmp_path / "adapter")
    report = registry.reconcile.report()
    assert (differences(report, "manifests"), report.is_equal) == ({"trained_tokens": 0}, True)


def test_a_manifest_that_tells_otherwise_is_found(registry: Registry, tmp_path: Path) -> None:
    trained(registry, tmp_path / "adapter", trained_tokens=61, evaluated_tokens=19)
    report = registry.reconcile.report()
    found = {"trained_tokens": 1, "evaluated_tokens": 2}
    assert (differences(report, "manifests"), report.is_equal) == (found, False)


def test_a_job_without_its_bill_is_found_by_name(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    trained(registry, tmp_path / "adapter")
    store = Store(settings.store_url)
    with store.transaction() as tx, forging(tx, "usage"):
        tx.execute(sa.delete(store.table("usage")).where(store.table("usage").c.kind == UsageKind.TRAINING.value))
    checks = [each for each in registry.reconcile.report().checks if each.check == "training"]
    assert [(each.difference, each.note) for each in checks] == [(60, "ft_1"), (21, "ft_1")]


def tokens(prompt: int, completion: int) -> Totals:
    return Totals(prompt_tokens=prompt, completion_tokens=completion)


@pytest.mark.parametrize(
    ("counts", "difference"),
    [
        (EngineCounts(prompt_tokens=10, generation_tokens=4, billed=tokens(10, 4)), (0, 0)),
        (EngineCounts(prompt_tokens=10, generation_tokens=5, billed=tokens(10, 4)), (0, 1)),
        (EngineCounts(prompt_tokens=15, generation_tokens=5, billed=tokens(10, 4), probes=tokens(5, 1)), (0, 0)),
        (EngineCounts(prompt_tokens=10, generation_tokens=4, elsewhere=tokens(10, 4)), (0, 0)),
        (EngineCounts(prompt_tokens=30, generation_tokens=0, billed=tokens(10, 0), repeated_prompt_tokens=20), (0, 0)),
        (EngineCounts(prompt_tokens=4, generation_tokens=0, billed=tokens(10, 0), abandoned_prompt_tokens=6), (0, 0)),
        (EngineCounts(prompt_tokens=3, generation_tokens=0, billed=tokens(10, 0), abandoned_prompt_tokens=6), (-1, 0)),
        (EngineCounts(prompt_tokens=10, generation_tokens=9, billed=tokens(10, 4), num_open=1), None),
    ],
)
def test_engines_against_what_was_asked_of_them(counts: EngineCounts, difference: tuple[int, int] | None) -> None:
    assert counts.difference == difference


def test_an_engines_surplus_is_a_difference(registry: Registry, folder: Path) -> None:
    folder.mkdir(parents=True)
    counts = EngineCounts(prompt_tokens=10, generation_tokens=5, billed=tokens(10, 4), probes=tokens(0, 0))
    (folder / "7.settled").write_text(Settled(engine=counts).model_dump_json())
    report = registry.reconcile.report()
    assert (differences(report, "engine"), report.is_equal) == ({"prompt_tokens": 0, "completion_tokens": 1}, False)
    (folder / "7.settled").write_text(Settled(engine=counts.model_copy(update={"num_open": 1})).model_dump_json())
    report = registry.reconcile.report()
    assert report.is_equal
    assert "compared when it rests" in report.notes[0]


def test_what_comes_while_it_adds_up_is_no_difference(registry: Registry, folder: Path) -> None:
    spool = settled(registry, folder, "a")
    spool.flush()
    counted = registry.reconcile.count()
    spool.settle(record("b"))
    spool.flush()
    assert registry.reconcile.report(counted).is_equal
    assert registry.reconcile.report().is_equal


@pytest.fixture
def limited(registry: Registry, clock: Callable[[int], None]) -> Registry:
    """An account with a balance, a budget of each kind and a job that is being trained; some of it is spent."""
    registry.access.add_admin_key("other", "hash", "lt_oth")
    registry.ledger.append([record("before", amount_ucr=1000)])
    registry.credits.top_up(ADMIN, "main", 5_000, "May")
    registry.credits.top_up(ADMIN, "main", 500, "June")
    registry.budgets.set(ADMIN, Budget(kind=BudgetKind.ROLE, name=ADMIN.role, granted_ucr=4_000))
    registry.budgets.set(ADMIN, Budget(kind=BudgetKind.USER, name=ADMIN.user, granted_ucr=4_000, period=Period.DAY))
    registry.jobs.submit(make_job("ft_held", "LUTHIER.PUBLIC.HELD"))
    registry.ledger.append([record("a", amount_ucr=20), record("b", amount_ucr=30)])
    clock(DAY_MS)
    registry.ledger.append([record("c", amount_ucr=7), record("other's", amount_ucr=9, account="other")])
    return registry


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Callable[[int], None]:
    now = [5_000]
    for part in (registry.ledger.limits, registry.credits._limits, registry.budgets._limits):
        monkeypatch.setattr(part, "_clock", lambda: now[0])

    def later(ms: int) -> None:
        now[0] += ms

    return later


def balances(registry: Registry) -> dict[tuple[str, str], tuple[int, int]]:
    checks = [each for each in registry.reconcile.report().checks if each.check == "balances"]
    return {(each.of, each.what): (each.counted, each.ledger) for each in checks}


def test_limits_are_what_their_rows_add_up_to(limited: Registry) -> None:
    told = balances(limited)
    held = told["main", "held_ucr"][0]
    assert held > 0
    assert told == {
        ("main", "granted_ucr"): (5_500, 5_500),
        ("main", "spent_ucr"): (57, 57),
        ("main", "reserved_ucr"): (held, held),
        ("main", "held_ucr"): (held, held),
        ("main role ACCOUNTADMIN", "spent_ucr"): (57, 57),
        ("main role ACCOUNTADMIN", "reserved_ucr"): (held, held),
        ("main user admin", "spent_ucr"): (7, 7),
        ("main user admin", "reserved_ucr"): (held, held),
    }


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE usage SET amount_ucr = 0 WHERE source_id = 'c'", {"spent_ucr": 3}),
        ("DELETE FROM usage WHERE source_id = 'a'", {"spent_ucr": 2}),
        ("UPDATE topups SET amount_ucr = 9 WHERE \"key\" = 'June'", {"granted_ucr": 1}),
        ("DELETE FROM reservations WHERE scope = 'user:admin'", {"reserved_ucr": 1}),
        ("UPDATE limits SET granted_ucr = granted_ucr + 1 WHERE scope = ''", {"granted_ucr": 1}),
        ("UPDATE jobs SET status = 'ERROR'", {"held_ucr": 1}),
    ],
)
def test_a_limit_that_was_tampered_with_is_found(
    limited: Registry, settings: Settings, change: str, found: dict[str, int]
) -> None:
    store = Store(settings.store_url)
    with store.transaction() as tx, forging(tx, "usage"):
        tx.exec_driver_sql(change)
    off = [what for (_, what), (shown, total) in balances(limited).items() if shown != total]
    assert {what: off.count(what) for what in off} == found
