"""The data report: faults by row and reason, tokens as the trainer counts them, what is cut or left out, the price."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luthier.errors import BadDataset, InvalidInput
from luthier.platform import datasets
from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.judge import judge
from luthier.platform.measure import histogram
from luthier.platform.options import BatchSize, Duration, Unit, parse_options
from luthier.platform.plan import plan
from luthier.platform.prices import load_prices, to_credits
from luthier.platform.prompts import Prompts, load_prompts
from luthier.platform.recipe import Terms, batch_of
from luthier.platform.rendering import num_tokens
from luthier.platform.report import MAX_KINDS, DataReport, Judged, Piece, clean_data, findings
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.storage import Storage
from luthier.platform.tasks import TaskType
from luthier.train.data import read_examples

PRICES = load_prices(configs_dir() / "prices.toml")
LONG = "zxqv kjw " * 400
# The tiny base model: 384 tokens of prompt, 128 of completion, 100 rows an epoch.


def table(num_rows: int, words: int = 1, first: int = 0) -> pa.Table:
    numbers = range(first, first + num_rows)
    prompts = [f"question {number} {'why ' * (number % 7) * words}" for number in numbers]
    return pa.table({"prompt": prompts, "completion": [f"answer {number}" for number in numbers]})


def rows_of(task: TaskType, num_rows: int) -> pa.Table:
    def row(number: int) -> dict[str, str]:
        ask, answer = f"question {number} {'why ' * (number % 7)}", f"answer {number}"
        if task is TaskType.CHAT_COMPLETION:
            turns = [("system", "s"), ("user", ask), ("assistant", answer), ("user", "and?"), ("assistant", "no")]
            return {"messages": json.dumps([{"role": role, "content": text} for role, text in turns])}
        if task is TaskType.INSTRUCTION_FINETUNE:
            return {"prompt": ask, "completion": answer}
        if task is TaskType.DPO:
            return {"prompt": ask, "chosen": answer, "rejected": "no"}
        return {"text": f"{ask} {answer} " * (1 + 40 * (number % 3))}

    return pa.Table.from_pylist([row(number) for number in range(num_rows)])


def pairs(*rows: tuple[str | None, str | None]) -> pa.Table:
    return pa.table(
        [[row[at] for row in rows] for at in (0, 1)], pa.schema([("prompt", "string"), ("completion", "string")])
    )


@pytest.fixture
def base(settings: Settings) -> BaseModel:
    return load_catalog(settings).get("tiny")


@pytest.fixture
def prompts(tiny_model: Path) -> Prompts:
    return load_prompts(tiny_model)


@pytest.fixture
def terms(base: BaseModel, prompts: Prompts) -> "Make":
    return Make(base, prompts)


class Make:
    """Terms for some options, and what is judged by them."""

    def __init__(self, base: BaseModel, prompts: Prompts) -> None:
        self.base, self.prompts = base, prompts
        self.speeds: tuple[float, ...] = ()

    def __call__(self, **options: Any) -> Terms:
        """For one epoch, if nothing else is asked for."""
        options = options if {"max_epochs", "training_duration"} & set(options) else {"max_epochs": 1, **options}
        return Terms(self.base, parse_options(options), self.prompts, PRICES, self.speeds)

    def judged(self, training: pa.Table, validation: pa.Table | None = None, **options: Any) -> Judged:
        return judge(training, validation, self(**options))

    def report(self, training: pa.Table, validation: pa.Table | None = None, **options: Any) -> DataReport:
        judged = self.judged(training, validation, **options)
        assert judged.data is not None
        assert judged.report.faults == []
        return judged.report


# faults


def test_faults_are_told_with_their_rows(terms: Make) -> None:
    rows = [("a", "b")] * 20
    for at in (2, 4, 6, 8, 10, 12, 14):
        rows[at] = ("a", "")
    judged = terms.judged(pairs(*rows[:5], (None, "b"), *rows[6:], ("  ", "b")))
    assert judged.data is None
    told = [(fault.what, fault.count, fault.rows, fault.of) for fault in judged.report.faults]
    assert told == [
        ("completion is empty", 7, [3, 5, 7, 9, 11], "training"),
        ("prompt is NULL", 1, [6], "training"),
        ("prompt is empty", 1, [21], "training"),
    ]
    with pytest.raises(BadDataset) as caught:
        clean_data(judged)
    assert caught.value.message == (
        "7 of 21 training rows: completion is empty (row 3, 5, 7, 9, 11, ...); 1 of 21 training rows: prompt is NULL "
        "(row 6); 1 of 21 training rows: prompt is empty (row 21). Mend these rows, or leave them out with WHERE."
    )


@pytest.mark.parametrize("bad", range(40))
def test_a_fault_is_found_in_any_row_and_by_its_number(terms: Make, bad: int) -> None:
    """Whether or not the row would have been split off for validation."""
    rows = table(40).to_pylist()
    rows[bad]["completion"] = ""
    (fault,) = terms.judged(pa.Table.from_pylist(rows)).report.faults
    assert (fault.what, fault.rows, fault.of) == ("completion is empty", [bad + 1], "training")


def test_faults_of_validation_rows_are_counted_apart(terms: Make) -> None:
    judged = terms.judged(pairs(("a", "b"), ("", "b")), pairs(("c", "d"), ("e", "f"), ("g", None)))
    told = [(fault.of, fault.what, fault.rows) for fault in judged.report.faults]
    assert told == [("training", "prompt is empty", [2]), ("validation", "completion is NULL", [3])]
    with pytest.raises(
        BadDataset, match=r"1 of 2 training rows: .* 1 of 3 validation rows: completion is NULL \(row 3\)"
    ):
        clean_data(judged)


def test_rows_that_cannot_be_rendered_are_faults(terms: Make) -> None:
    turns = [
        {"role": "system", "content": LONG},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    rows = pa.table({"messages": [json.dumps(turns[1:]), json.dumps(turns), json.dumps(turns[1:])]})
    (fault,) = terms.judged(rows).report.faults
    assert fault.rows == [2]
    assert "the prompt share of 384 tokens has no room" in fault.what


def test_many_kinds_of_fault_stay_readable() -> None:
    found = findings({f"fault {number}": [number, number + 100] for number in range(1, 51)}, "training")
    assert len(found) == MAX_KINDS + 1
    assert (found[-1].what, found[-1].count) == ("30 more kinds of fault", 60)
    assert found[-1].rows == [21, 22, 23, 24, 25]
    assert sum(each.count for each in found) == 100


@pytest.mark.parametrize("task", TaskType)
def test_what_is_taken_is_what_was_given(terms: Make, task: TaskType) -> None:
    """Every row, in its order, in one of the two parts."""
    rows = rows_of(task, 41)
    judged = terms.judged(rows, task_type=task.value)
    data = clean_data(judged)
    kept, held = datasets.split(41, 0)
    assert data.training == rows.take(kept)
    assert data.validation == rows.take(held)
    assert (judged.report.rows, judged.report.validation_rows, judged.report.validation_split) == (39, 2, True)


def test_given_validation_data_is_taken_as_it_is(terms: Make) -> None:
    training, validation = table(30), table(3, first=30)
    judged = terms.judged(training, validation)
    data = clean_data(judged)
    assert (data.training, data.validation) == (training, validation)
    assert (judged.report.rows, judged.report.validation_rows, judged.report.validation_split) == (30, 3, False)


def test_one_row_serves_as_both(terms: Make) -> None:
    judged = terms.judged(table(1))
    data = clean_data(judged)
    assert data.training == data.validation == table(1)
    assert "One row serves for training and for validation" in judged.report.warnings


# what repeats


def test_rows_that_repeat_are_named(terms: Make) -> None:
    rows = pairs(*[("a", "b"), ("c", "d"), ("a", "b"), ("a", "x"), ("c", "d"), ("a", "b")])
    report = terms.report(rows, table(1))
    assert (report.duplicates.count, report.duplicates.rows) == (3, [3, 5, 6])
    assert report.overlap.count == 0
    assert "Rows that repeat an earlier row: 3" in report.warnings


def test_validation_rows_that_are_trained_on_are_named(terms: Make) -> None:
    report = terms.report(table(10), pa.concat_tables([table(1, first=10), table(2, first=4)]))
    assert (report.overlap.count, report.overlap.rows, report.overlap.of) == (2, [2, 3], "validation")
    assert "Validation rows that are training rows too: 2" in report.warnings


def test_a_split_of_rows_that_repeat_overlaps(terms: Make) -> None:
    """The numbers are those of the training query."""
    _, held = datasets.split(40, 0)
    report = terms.report(pa.concat_tables([table(20), table(20)]))
    assert (report.overlap.of, report.overlap.rows) == ("training", [at + 1 for at in held])
    assert terms.report(table(40)).overlap.count == 0


# tokens


@pytest.mark.parametrize("words", [1, 120])
@pytest.mark.parametrize("task", TaskType)
def test_the_report_counts_what_the_trainer_trains(terms: Make, tmp_path: Path, task: TaskType, words: int) -> None:
    """Also where rows are cut at their shares, and pairs and texts are more or less than one document a row."""
    options = {"task_type": task.value, "max_epochs": 2, "seed": 3, "context_length": 512 if words == 1 else 40}
    judged, report = terms.judged(rows_of(task, 40), **options), terms.report(rows_of(task, 40), **options)
    datasets.freeze(clean_data(judged), Storage(tmp_path), "ft_1")
    how, chosen = terms(**options).how, terms(**options).options
    examples = read_examples(tmp_path / "jobs" / "ft_1" / "train.parquet", terms.prompts, how)
    lengths = [num_tokens(example) for example in examples]
    assert report.tokens == sum(lengths)
    assert report.learned_tokens == sum(sample.num_learned for example in examples for sample in example)
    steps = plan(pa.array(lengths).to_numpy(), batch_of(chosen, how), chosen.duration, 3)  # type: ignore[arg-type]
    trained = sum(lengths[row] for step in steps for row in step.rows)
    assert report.trained_tokens == trained == 2 * report.tokens
    assert report.steps == len(steps)
    assert report.credits == str(to_credits(PRICES.training_ucr("small", trained)))
    assert report.price_version == PRICES.version
    assert (report.rows_cut > 0) == (words > 1 and task is not TaskType.CONTINUED_PRETRAIN)


def test_a_cut_row_fills_its_shares(terms: Make) -> None:
    report = terms.report(pairs(("word " * 400, "word " * 400)), max_epochs=1)
    assert 128 < report.longest_row <= 384 + 128
    assert report.learned_tokens == 128
    assert report.rows_cut == 1


@pytest.mark.parametrize(("length", "shares"), [(16, (12, 4)), (100, (75, 25)), (512, (384, 128)), (None, (384, 128))])
def test_a_context_length_keeps_the_ratio_of_the_shares(
    terms: Make, length: int | None, shares: tuple[int, int]
) -> None:
    how = terms(context_length=length).how
    assert (how.max_prompt, how.max_completion) == shares


def test_a_context_length_beyond_the_base_model(terms: Make) -> None:
    with pytest.raises(InvalidInput, match="context_length = 513: tiny reads 512 tokens"):
        terms.judged(table(3), context_length=513)


def test_the_histogram_counts_each_row_once(terms: Make) -> None:
    report = terms.report(table(80, 10))
    lengths = [report.histogram[0].up_to, report.histogram[-1].up_to]
    assert sum(each.rows for each in report.histogram) == report.rows
    assert lengths[0] >= 16
    assert lengths[-1] >= report.longest_row > lengths[-1] // 2
    assert all(each.rows for each in report.histogram)


def test_the_edges_of_the_histogram() -> None:
    bins = histogram(np.array([1, 15, 16, 17, 32, 33, 200]))
    assert [(each.up_to, each.rows) for each in bins] == [(16, 3), (32, 2), (64, 1), (256, 1)]


# samples


def test_samples_are_read_as_the_model_reads_them(terms: Make) -> None:
    report = terms.report(pairs(*[(f"q{number}", f"a{number}") for number in range(9)]), table(1))
    assert report.samples == [
        [
            Piece(text=f"<|im_start|>user\nq{number}<|im_end|>\n<|im_start|>assistant\n", learned=False),
            Piece(text=f"a{number}<|im_end|>", learned=True),
        ]
        for number in range(3)
    ]


def test_samples_of_the_other_tasks(terms: Make) -> None:
    def first(task: TaskType, **options: Any) -> list[tuple[str, bool]]:
        report = terms.report(rows_of(task, 1), task_type=task.value, **options)
        return [(piece.text, piece.learned) for piece in report.samples[0]]

    plain = first(TaskType.INSTRUCTION_FINETUNE)
    assert plain == [("question 0 ", False), ("answer 0<|im_end|>", True)]
    context, text = first(TaskType.CONTINUED_PRETRAIN)
    assert (context[0] + text[0], context[1], text[1]) == ("question 0  answer 0 <|im_end|>", False, True)
    chosen_head, chosen, rejected_head, rejected = first(TaskType.DPO)
    assert chosen_head == rejected_head
    assert (chosen, rejected) == (("answer 0<|im_end|>", True), ("no<|im_end|>", True))
    assert [learned for _, learned in first(TaskType.CHAT_COMPLETION, train_on="all")] == [False, True, False, True]
    assert [learned for _, learned in first(TaskType.CHAT_COMPLETION)] == [False, True]


def test_samples_stay_small(terms: Make) -> None:
    turns = [{"role": ("user", "assistant")[at % 2], "content": "word " * 60} for at in range(40)]
    report = terms.report(pa.table({"messages": [json.dumps(turns)] * 5}), train_on="all")
    assert len(report.model_dump_json()) < 20_000
    long = terms.report(pairs(("what is the answer to question " * 90, "b")))
    assert "[... " in long.samples[0][0].text
    assert len(long.samples[0][0].text) < 700
    assert long.samples[0][0].text.endswith("<|im_start|>assistant\n")


# rows beyond their share


OVERLONG = [("a", "b"), (LONG, "b"), ("c", "d"), ("e", LONG), ("f", "g")]


def test_overlong_rows_are_cut(terms: Make) -> None:
    report = terms.report(pairs(*OVERLONG), table(2))
    assert (report.rows, report.rows_cut, report.rows_dropped) == (5, 2, 0)
    assert "Rows cut at their share of the context: 2" in report.warnings


def test_overlong_rows_are_left_out(terms: Make) -> None:
    judged = terms.judged(pairs(*OVERLONG), pairs((LONG, "x"), ("y", "z")), on_overlong="drop")
    data, report = clean_data(judged), judged.report
    assert data.training["prompt"].to_pylist() == ["a", "c", "f"]
    assert data.validation["prompt"].to_pylist() == ["y"]
    assert (report.rows, report.validation_rows, report.rows_cut, report.rows_dropped) == (3, 1, 0, 3)
    assert report.tokens == terms.report(pairs(("a", "b"), ("c", "d"), ("f", "g")), table(1)).tokens
    assert "Rows left out, longer than their share of the context: 3" in report.warnings


def test_rows_are_left_out_before_the_split(terms: Make) -> None:
    rows = table(40).to_pylist()
    for at in range(0, 40, 2):
        rows[at]["completion"] = LONG
    judged = terms.judged(pa.Table.from_pylist(rows), on_overlong="drop")
    data = clean_data(judged)
    assert (judged.report.rows, judged.report.validation_rows, judged.report.rows_dropped) == (19, 1, 20)
    assert all(
        int(text.split()[1]) % 2 for each in (data.training, data.validation) for text in each["completion"].to_pylist()
    )


def test_rows_left_out_keep_their_numbers(terms: Make) -> None:
    """An overlap is told by the numbers of the query."""
    rows = pairs((LONG, "x"), *[("a", "b")] * 3)
    report = terms.report(rows, on_overlong="drop")
    _, (held,) = datasets.split(3, 0)
    assert report.overlap.rows == [held + 2]


def test_overlong_rows_are_faults_where_that_is_asked_for(terms: Make) -> None:
    judged = terms.judged(pairs(*OVERLONG), pairs(("a", "b"), (LONG, "x")), on_overlong="error")
    told = [(fault.of, fault.rows) for fault in judged.report.faults]
    assert told == [("training", [2, 4]), ("validation", [2])]
    with pytest.raises(BadDataset, match="longer than its prompt or completion share of the context, and on_overlong"):
        clean_data(judged)
    assert clean_data(terms.judged(pairs(("a", "b")), on_overlong="error"))


def test_a_row_that_cannot_even_be_cut_is_left_out(terms: Make) -> None:
    turns = [
        {"role": "system", "content": LONG},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    rows = pa.table({"messages": [json.dumps(turns), *[json.dumps(turns[1:])] * 3]})
    report = terms.report(rows, on_overlong="drop")
    assert (report.rows, report.validation_rows, report.rows_dropped) == (2, 1, 1)


def test_when_all_rows_are_left_out_there_is_nothing_to_train(terms: Make) -> None:
    with pytest.raises(BadDataset, match="on_overlong = drop leaves nothing"):
        terms.judged(pairs((LONG, "a"), ("b", LONG)), on_overlong="drop")
    with pytest.raises(BadDataset, match="on_overlong = drop leaves nothing"):
        terms.judged(table(3), pairs((LONG, "a")), on_overlong="drop")


# how long, how much, how fast


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


def test_a_budget_ends_the_run(terms: Make) -> None:
    free = terms.report(table(40), max_epochs=2)
    price = PRICES.training_ucr("small", free.trained_tokens)
    budget = str(to_credits(price // 3))
    paid = terms.report(table(40), max_epochs=2, budget_credits=budget)
    assert 0 < paid.trained_tokens < free.trained_tokens
    assert PRICES.training_ucr("small", paid.trained_tokens) <= price // 3
    assert (paid.epochs, paid.tokens) == (1, free.tokens)
    assert terms.report(table(40), max_epochs=2, budget_credits=str(to_credits(price))).credits == free.credits


@pytest.mark.parametrize("budget", ["0", "0.000001"])
def test_a_budget_for_nothing(terms: Make, budget: str) -> None:
    with pytest.raises(InvalidInput, match=f"budget_credits = {budget}: it does not pay for one optimizer step"):
        terms.judged(table(40), budget_credits=budget)


def test_a_budget_counts_when_rows_are_limited(terms: Make) -> None:
    """Only epochs that are paid for are begun."""
    one = terms.report(table(60), max_epochs=1)
    assert terms.report(table(60), max_epochs=3, budget_credits=one.credits).epochs == 1


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
