"""The data report: faults by row and reason, tokens as the trainer counts them, what is cut or left out, the price."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luthier.errors import BadDataset, InvalidInput
from luthier.platform.data import datasets
from luthier.platform.data.measure import histogram
from luthier.platform.data.plan import plan
from luthier.platform.data.recipe import batch_of
from luthier.platform.data.rendering import num_tokens
from luthier.platform.data.report import MAX_KINDS, Piece, clean_data, findings
from luthier.platform.prices import to_credits
from luthier.platform.storage import Storage
from luthier.platform.tasks import TaskType
from luthier.train.data import read_examples
from tests.platform.judging import LONG, OVERLONG, PRICES, Make, pairs, rows_of, table

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
    steps = plan(pa.array(lengths).to_numpy(), batch_of(chosen, how), chosen.duration, 3)
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
