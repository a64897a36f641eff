"""What the data report says of length, price and time, and what it advises against."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luthier.errors import BadDataset, InvalidInput, PaymentRequired
from luthier.platform.data import judge
from luthier.platform.data.estimate import check_budget
from luthier.platform.data.measure import Measured, measure
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.recipe import batch_of
from luthier.platform.data.rendering import Rendering, Row
from luthier.platform.data.report import DataReport
from luthier.platform.options import BatchSize, Duration, Unit, parse_options
from luthier.platform.prices import to_credits
from luthier.platform.tasks import TaskType
from tests.platform.judging import LONG, OVERLONG, PRICES, Make, pairs, rows_of, table


@pytest.mark.parametrize(("num_rows", "max_epochs"), [(100, 1), (50, 2), (33, 3), (10, 10)])
def test_the_row_limit_is_for_all_epochs(terms: Make, num_rows: int, max_epochs: int) -> None:
    assert terms.report(table(num_rows), max_epochs=max_epochs).epochs == max_epochs
    with pytest.raises(BadDataset, match=f"{num_rows + 1} rows are too many: tiny takes 100 rows / {max_epochs}"):
        terms.judged(table(num_rows + 1), max_epochs=max_epochs)


def test_validation_rows_count_towards_the_limit(terms: Make) -> None:
    assert terms.report(table(90), table(10, first=90), max_epochs=1).validation_rows == 10
    with pytest.raises(BadDataset, match="101 rows"):
        terms.judged(table(90), table(11, first=90), max_epochs=1)


@pytest.mark.parametrize("duration", ["10ep", "1000000000000ba", "900_000_000_000tok"])
@pytest.mark.timeout(20)
def test_an_absurd_duration_is_refused_at_once(terms: Make, duration: str) -> None:
    with pytest.raises(BadDataset, match=r"40 rows are too many: tiny takes 100 rows / \d+ epochs"):
        terms.judged(table(40), training_duration=duration)


@pytest.mark.parametrize(("longest", "is_refused"), [(5_000_000_000, True), (4_999_999_999, False)])
def test_ten_billion_tokens_are_too_many(
    terms: Make, monkeypatch: pytest.MonkeyPatch, longest: int, is_refused: bool
) -> None:
    """Two rows of the training data that count as many; a third, for validation, does not count."""

    def counted(rows: Sequence[Row], prompts: Prompts, how: Rendering, may_drop: bool) -> Measured:
        lengths = np.array([5_000_000_000, longest][: len(rows)])
        return replace(measure(rows, prompts, how, may_drop), lengths=lengths)

    monkeypatch.setattr(judge, "measure", counted)
    training, validation = table(2), table(1, first=2)
    if not is_refused:
        assert terms.report(training, validation).tokens == 9_999_999_999
        return
    with pytest.raises(BadDataset) as caught:
        terms.judged(training, validation)
    assert caught.value.message == (
        "10,000,000,000 tokens are too many: data sets below 10,000,000,000 can be trained on."
    )


def test_durations_in_epochs_batches_and_tokens(terms: Make) -> None:
    whole = terms.report(table(41), max_epochs=1, batch_size=4)
    assert (whole.duration, whole.epochs, whole.steps) == ("1ep", 1, 10)
    half = terms.report(table(41), training_duration="5ba", batch_size=4)
    assert (half.duration, half.epochs, half.steps) == ("5ba", 1, 5)
    assert 0 < half.trained_tokens < whole.trained_tokens
    more = terms.report(table(41), training_duration=f"{whole.tokens + 1}tok", batch_size=4)
    assert (more.epochs, more.steps) == (2, 11)
    assert whole.tokens < more.trained_tokens < 2 * whole.tokens
    assert half.tokens == more.tokens == whole.tokens


def test_a_batch_of_tokens(terms: Make) -> None:
    report = terms.report(table(40), batch_size="64tok", max_epochs=1)
    assert report.steps is not None
    assert report.tokens / 64 <= report.steps <= 40


def test_an_automatic_batch_leaves_the_steps_open(terms: Make) -> None:
    report = terms.report(table(40), batch_size="auto", max_epochs=2)
    assert report.steps is None
    assert report.trained_tokens == 2 * report.tokens
    with pytest.raises(InvalidInput, match="training_duration in batches needs a batch_size"):
        terms.judged(table(40), batch_size="auto", training_duration="5ba")


def test_text_is_batched_in_contexts(terms: Make) -> None:
    rows = pa.table({"text": ["word " * 2000] * 8})
    report = terms.report(rows, task_type="CONTINUED_PRETRAIN", batch_size=2, max_epochs=1)
    assert batch_of(parse_options({"batch_size": 2}), terms(task_type="CONTINUED_PRETRAIN").how) == BatchSize(
        tokens=1024
    )
    assert report.steps is not None
    assert report.tokens / 1024 <= report.steps <= report.tokens / 512 + 8
    huge = terms(task_type="CONTINUED_PRETRAIN", batch_size=4096)
    assert batch_of(huge.options, huge.how.model_copy(update={"max_prompt": 120_000})) is not None


def test_a_budget_shortens_the_run(terms: Make) -> None:
    free = terms.report(table(40), max_epochs=2)
    price = PRICES.training_ucr("small", free.trained_tokens)
    budget = str(to_credits(price // 3))
    paid = terms.report(table(40), max_epochs=2, budget_credits=budget, on_budget="shorten")
    assert (free.is_shortened, paid.is_shortened) == (False, True)
    assert f"after {paid.trained_tokens:,} trained tokens" in "".join(paid.warnings)
    assert 0 < paid.trained_tokens < free.trained_tokens
    assert PRICES.training_ucr("small", paid.trained_tokens) <= price // 3
    assert (paid.epochs, paid.tokens) == (1, free.tokens)
    enough = terms.report(table(40), max_epochs=2, budget_credits=str(to_credits(price)), on_budget="shorten")
    assert (enough.credits, enough.is_shortened) == (free.credits, False)


@pytest.mark.parametrize("size", [8, "auto"])
def test_a_budget_refuses_what_costs_more(terms: Make, size: int | str) -> None:
    free = terms.report(table(40), batch_size=size)
    price = PRICES.training_ucr("small", free.trained_tokens)
    for budget, is_over in ((price, False), (price - 1, True), (0, True)):
        asked = terms(batch_size=size, budget_credits=str(to_credits(budget))).options
        report = terms.report(table(40), batch_size=size, budget_credits=asked.budget_credits)
        assert (report.trained_tokens, report.is_shortened) == (free.trained_tokens, False)
        assert any("CREATE refuses this" in warning for warning in report.warnings) == is_over
        if is_over:
            with pytest.raises(PaymentRequired, match=rf"is {asked.budget_credits} credits, .* cost {free.credits}"):
                check_budget(asked, report.credits)
        else:
            check_budget(asked, report.credits)


@pytest.mark.parametrize("budget", ["0", "0.000001"])
def test_a_budget_for_nothing(terms: Make, budget: str) -> None:
    with pytest.raises(PaymentRequired, match=f"budget_credits = {budget}: it does not pay for one optimizer step"):
        terms.judged(table(40), budget_credits=budget, on_budget="shorten")


def test_a_budget_counts_when_rows_are_limited(terms: Make) -> None:
    """Only epochs that are paid for are begun."""
    one = terms.report(table(60), max_epochs=1)
    assert terms.report(table(60), max_epochs=3, budget_credits=one.credits, on_budget="shorten").epochs == 1


def test_expected_time_comes_from_the_last_runs(terms: Make) -> None:
    assert terms.report(table(40)).seconds is None
    terms.speeds = (100.0, 400.0, 200.0)
    report = terms.report(table(40))
    assert report.seconds == (round(report.trained_tokens / 400), round(report.trained_tokens / 100))


def test_a_price_class_that_is_not_there(terms: Make) -> None:
    terms.base = terms.base.model_copy(update={"price_class": "gone"})
    with pytest.raises(InvalidInput, match="no class 'gone'"):
        terms.judged(table(2))


# advice


@pytest.mark.parametrize(
    ("rows", "options", "warning"),
    [
        (table(3), {}, "Fewer tokens"),
        (table(3), {"batch_size": 8}, "Fewer rows (2) than one batch"),
        (table(10), {"max_epochs": 5}, "5 epochs: beyond 4 a model tends to copy its data"),
        (rows_of(TaskType.CONTINUED_PRETRAIN, 3), {"task_type": "CONTINUED_PRETRAIN"}, "advised for pre-training"),
    ],
    ids=["one context", "one batch", "epochs", "text"],
)
def test_advice(terms: Make, rows: pa.Table, options: dict[str, Any], warning: str) -> None:
    assert any(warning in each for each in terms.report(rows, **options).warnings)


def test_good_data_gets_no_advice(terms: Make) -> None:
    assert terms.report(table(60), max_epochs=1).warnings == []


def test_eval_prompts_must_fit(terms: Make) -> None:
    assert terms.report(table(3), eval_prompts=["why?"])
    with pytest.raises(InvalidInput, match=r"eval_prompts: prompt 2 has \d+ tokens; 1 to 384 are read"):
        terms.judged(table(3), eval_prompts=["why?", LONG])
    with pytest.raises(InvalidInput, match="eval_prompts: prompt 1 has 0 tokens"):
        terms.judged(table(3), eval_prompts=[""], task_type="INSTRUCTION_FINETUNE")


def test_a_report_comes_back_from_json(terms: Make) -> None:
    terms.speeds = (10.0,)
    report = terms.report(pairs(*OVERLONG, ("a", "b")), table(1))
    assert DataReport.model_validate_json(report.model_dump_json()) == report
    assert Duration.parse(report.duration) == Duration(num=1, unit=Unit.EPOCHS)
