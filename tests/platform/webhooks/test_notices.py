"""Notices are written once, in the transaction that notices."""

import pytest

from luthier.errors import Conflict, PaymentRequired
from luthier.platform.credits import BudgetKind, Want
from luthier.platform.jobs import Event, EventType, shortened_words
from luthier.platform.options import FinetuneOptions
from luthier.platform.registry.registry import Registry
from luthier.platform.webhooks import (
    NoticeType,
)
from tests.factories import ADMIN, make_job, make_record
from tests.fakes import Clock, Launcher
from tests.platform.webhooks.outbox import DAY_MS, budget, types

pytestmark = pytest.mark.stores


def test_a_soft_budget_is_told_once_in_a_period(registry: Registry, time: Clock) -> None:
    budget(registry, 5)
    for number in range(4):
        registry.ledger.append([make_record(f"a{number}", amount_ucr=3)])
    assert types(registry) == ["budget.passed"]
    budget(registry, 5)  # set again as it is
    registry.ledger.append([make_record("b", amount_ucr=3)])
    assert types(registry) == ["budget.passed"]
    time.now += DAY_MS
    registry.ledger.append([make_record("c", amount_ucr=5)])
    assert len(types(registry)) == 1
    registry.ledger.append([make_record("d", amount_ucr=1)])
    assert len(types(registry)) == 2


def test_a_budget_that_is_made_or_raised_anew_is_told_of_anew(registry: Registry, time: Clock) -> None:
    budget(registry, 5)
    registry.ledger.append([make_record("a", amount_ucr=6)])
    registry.budgets.drop(ADMIN, BudgetKind.USER, "admin")
    budget(registry, 5)
    time.now += 1
    registry.ledger.append([make_record("b", amount_ucr=6)])
    assert types(registry) == ["budget.passed"] * 2
    for granted in (50, 5):
        time.now += 1
        budget(registry, granted)
    registry.ledger.append([make_record("c", amount_ucr=6)])
    assert types(registry) == ["budget.passed"] * 3


def test_what_is_not_kept_is_not_told(registry: Registry) -> None:
    budget(registry, 5)
    registry.ledger.append([make_record("a", amount_ucr=1)])
    with pytest.raises(Conflict):
        registry.ledger.append([make_record("a", amount_ucr=2), make_record("b", amount_ucr=9)])
    assert types(registry) == []


def test_a_balance_that_runs_low(registry: Registry) -> None:
    with pytest.raises(Conflict):
        registry.credits.alert(ADMIN, 50)
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    assert registry.credits.alert(ADMIN, 50).alert_ucr == 50
    registry.ledger.append([make_record("a", amount_ucr=50)])
    assert types(registry) == []
    for number in range(3):
        registry.ledger.append([make_record(f"b{number}", amount_ucr=1)])
    assert types(registry) == ["balance.low"]
    registry.credits.top_up(ADMIN, "main", 100, "k2")
    registry.ledger.append([make_record("c", amount_ucr=97)])
    assert types(registry) == ["balance.low"]
    registry.ledger.append([make_record("d", amount_ucr=2)])
    assert types(registry) == ["balance.low"] * 2
    registry.credits.alert(ADMIN, None)


def test_a_refused_job_is_told_once(registry: Registry) -> None:
    registry.credits.limit(ADMIN, "main")
    budget(registry, 0, is_hard=True)
    for number in range(2):
        with pytest.raises(PaymentRequired):
            registry.jobs.submit(make_job(f"ft_{number}"))
    assert sorted(types(registry)) == ["balance.refused", "budget.refused"]


def test_a_job_that_its_budget_shortens_is_told_once(registry: Registry, launcher: Launcher) -> None:
    launcher.num_jobs = 2
    options = FinetuneOptions(budget_credits="0.5", on_budget="shorten")
    report = {"rows": 2, "trained_tokens": 60}
    for job_id, is_shortened in (("ft_1", True), ("ft_2", False)):
        job = make_job(job_id, f"LUTHIER.PUBLIC.{job_id}", options=options)
        registry.jobs.submit(job.model_copy(update={"report": {**report, "is_shortened": is_shortened}}))
    (notice,) = registry.webhooks.notices(ADMIN)
    about = {"kind": "job", "name": "ft_1", "model": "LUTHIER.PUBLIC.ft_1", "granted": "0.5"}
    assert (notice.type, notice.data) == (NoticeType.BUDGET_SHORTENED, about)
    registry.jobs.tick()
    told = [Event(time=1, type=EventType.SHORTENED, message=shortened_words(tokens)) for tokens in (60, 58)]
    for _ in range(2):
        for job_id in ("ft_1", "ft_2"):
            registry.jobs.report(job_id, None, told)
    for job_id in ("ft_1", "ft_2"):
        events = registry.jobs.news(ADMIN, job_id).events
        words = [event.message for event in events if event.type == EventType.SHORTENED]
        assert words == [event.message for event in told]
    assert [notice.data["name"] for notice in registry.webhooks.notices(ADMIN)] == ["ft_2", "ft_1"]


def test_what_a_replica_refused_is_told_once(registry: Registry) -> None:
    budget(registry, 0, is_hard=True)
    for turn in (1, 2):
        want = Want(id="l1", account="main", scope="user:admin", turn=turn, total_ucr=9, need_ucr=9, has_refused=True)
        registry.credits.renew("r1", [], [want])
        registry.credits.renew("r1", [], [want])
    assert types(registry) == ["budget.refused"]
