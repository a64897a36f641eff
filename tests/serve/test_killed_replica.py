"""A replica of a limited account is killed around settling: no more is spent than there is, and nothing stays away."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.platform.credits import GRACE_MS, LEASE_MS
from luthier.platform.jobs import now_ms
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.settled import SettledFiles
from luthier.serve.metering.holders import Holders
from luthier.serve.metering.usage import UsageSpool
from tests.factories import ADMIN, ledger_of
from tests.fakes import Launcher
from tests.serve.dying_replica import MADE, NUM_AT_ONCE

GIVEN_UCR = 20_000
KILLED = -9


def killed(settings: Settings, tiny_model: Path, moment: str, after: int) -> None:
    given = map(str, (settings.home, tiny_model, moment, after))
    command = [sys.executable, "-m", "tests.serve.dying_replica", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == KILLED, done.stderr


def inherit(settings: Settings, registry: Registry) -> None:
    """The replica that follows it on this machine."""
    folder = settings.home / "spool" / "tiny"
    holders = Holders(folder, registry.credits.end_holder)
    UsageSpool(folder, registry.ledger.append, inherited=holders.inherited).flush()


def counts(settings: Settings, registry: Registry) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens by request: those that the engine made, and those that the ledger has."""
    lines = [json.loads(line) for line in (settings.home / MADE).read_text().splitlines()]
    records = ledger_of(registry)
    return {line["id"]: line["tokens"] for line in lines}, {each.source_id: each.tokens for each in records}


@pytest.mark.parametrize(
    ("moment", "after", "most_lost"),
    [
        ("before settle", 20, NUM_AT_ONCE),  # what is made and on no disk yet is lost, to the platform's cost
        ("after settle", 20, NUM_AT_ONCE - 1),
        ("after append", 1, NUM_AT_ONCE),
    ],
)
def test_killed_around_settling(
    settings: Settings, registry: Registry, tiny_model: Path, moment: str, after: int, most_lost: int
) -> None:
    registry.credits.top_up(ADMIN, "main", GIVEN_UCR, "k1")
    killed(settings, tiny_model, moment, after)
    before = registry.credits.balance(ADMIN)
    assert before.spent_ucr + before.leased_ucr <= GIVEN_UCR
    assert before.leased_ucr > 0, "it had some"

    inherit(settings, registry)
    balance = registry.credits.balance(ADMIN)
    assert (balance.leased_ucr, balance.overrun_ucr) == (0, 0)
    assert 0 < balance.spent_ucr <= GIVEN_UCR
    assert balance.available_ucr == GIVEN_UCR - balance.spent_ucr
    made, paid = counts(settings, registry)
    assert paid.items() <= made.items(), "each as the engine counted it, once"
    assert len(made) - len(paid) <= most_lost
    assert sum(each.amount_ucr for each in ledger_of(registry)) == balance.spent_ucr


def test_without_an_heir_the_balance_is_whole_after_the_leases_time(
    settings: Settings, registry: Registry, tiny_model: Path
) -> None:
    registry.credits.top_up(ADMIN, "main", GIVEN_UCR, "k1")
    killed(settings, tiny_model, "before settle", 0)
    assert registry.credits.balance(ADMIN).available_ucr < GIVEN_UCR
    later = Registry(settings, Launcher(), lambda: now_ms() + LEASE_MS + GRACE_MS)
    balance = later.credits.balance(ADMIN)
    assert (balance.available_ucr, balance.leased_ucr) == (GIVEN_UCR, 0)


@pytest.mark.parametrize("is_first", [True, False], ids=["the second answer is told first", "the dead one's is"])
def test_killed_before_the_client_hears_and_asked_again_under_the_same_id(
    settings: Settings, registry: Registry, tiny_model: Path, is_first: bool
) -> None:
    folder = settings.home / "spool" / "tiny"
    alive = UsageSpool(folder, registry.ledger.append) if is_first else None
    killed(settings, tiny_model, "after settle", 20)
    last = [each for _, records in SettledFiles(folder).spools() for each in records][-1]
    alive = alive or UsageSpool(folder, registry.ledger.append)  # it follows the dead one
    again = last.model_copy(update={"time": last.time + 1, "completion_tokens": 99, "amount_ucr": 9_999, "leases": ()})
    alive.settle(again)
    alive.flush()
    inherit(settings, registry)
    bills = [each for each in ledger_of(registry) if each.source_id == last.source_id]
    assert [each.amount_ucr for each in bills] == [9_999 if is_first else last.amount_ucr]
    report = registry.reconcile.report()
    assert report.is_equal
    assert {each.note for each in report.checks if each.of == "tiny" and each.what == "records"} == {
        "1 of second answers to requests, which are billed once"
    }
