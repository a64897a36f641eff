"""A job is held and charged at the price that it was accepted at, whatever prices are when it ends."""

import pytest

from luthier.errors import PaymentRequired
from luthier.platform.jobs import Job, JobError, new_job_id
from luthier.platform.metering import UsageKind
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, ledger_of, make_finished, make_job, make_progress

FAILED = new_job_id()
TOKENS, TODAY = 60, 6
"""What the job of the factories trains, and what that costs by prices.toml."""


def job(price: str, id: str = "ft_1") -> Job:
    report = {"rows": 2, "trained_tokens": TOKENS, "training_price": price, "price_version": "of then"}
    return make_job(id, report=report)


def run(registry: Registry, each: Job) -> None:
    registry.jobs.submit(each)
    registry.jobs.tick()
    registry.jobs.report(each.id, make_progress(trained_tokens=TOKENS))


def give(registry: Registry, ucr: int) -> None:
    registry.credits.top_up(ADMIN, ADMIN.account, ucr, "once")


@pytest.mark.parametrize(("price", "ucr"), [("0.05", 3), ("0.1", TODAY), ("0.3", 18), ("0", 0)])
def test_it_costs_what_it_was_accepted_at(registry: Registry, price: str, ucr: int) -> None:
    give(registry, ucr + 1)
    run(registry, job(price))
    assert registry.credits.balance(ADMIN).held_ucr == ucr
    registry.jobs.finish("ft_1", make_finished())
    balance = registry.credits.balance(ADMIN)
    assert (balance.spent_ucr, balance.held_ucr, balance.overrun_ucr) == (ucr, 0, 0)
    (record,) = ledger_of(registry, UsageKind.TRAINING)
    assert (record.amount_ucr, record.price_version) == (ucr, "of then")


def test_so_does_what_was_done_of_it_when_it_was_cancelled(registry: Registry) -> None:
    give(registry, 3)
    run(registry, job("0.05"))
    registry.jobs.cancel(ADMIN, "ft_1")
    registry.jobs.tick()
    assert [record.amount_ucr for record in ledger_of(registry, UsageKind.TRAINING)] == [3]
    assert registry.credits.balance(ADMIN).overrun_ucr == 0


def test_it_is_refused_by_the_same_price(registry: Registry) -> None:
    give(registry, 17)
    with pytest.raises(PaymentRequired):
        registry.jobs.submit(job("0.3"))
    registry.jobs.submit(job("0.2"))


def test_one_of_before_reports_named_a_price_costs_what_prices_are_now(registry: Registry) -> None:
    give(registry, TODAY)
    run(registry, make_job())
    registry.jobs.finish("ft_1", make_finished())
    assert registry.credits.balance(ADMIN).spent_ucr == TODAY


def test_who_goes_on_from_one_that_failed_pays_what_prices_are_now(registry: Registry) -> None:
    give(registry, 100)
    run(registry, job("0.3", FAILED))
    registry.jobs.fail(FAILED, JobError(code="internal", message="a worker was lost"), billable=False)
    assert registry.credits.balance(ADMIN).spent_ucr == 0
    late = job("0.05", "ft_2")
    registry.jobs.submit(late.model_copy(update={"options": late.options.model_copy(update={"continue_from": FAILED})}))
    (record,) = ledger_of(registry, UsageKind.TRAINING)
    assert record.amount_ucr == TODAY
    assert record.price_version != "of then"
