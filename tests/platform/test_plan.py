"""The plan of a run: every row once an epoch, batches within their size, durations, budgets, the same again."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.data.plan import Rows, Step, cut, is_shortened, order_of, plan
from luthier.platform.options import BatchSize, Duration, Unit

row_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(lambda found: np.array(found, np.int64))
row_batches = st.integers(1, 50).map(lambda num: BatchSize(rows=num))
token_batches = st.integers(1, 200).map(lambda num: BatchSize(tokens=num))
batches = st.one_of(row_batches, token_batches)
seeds = st.integers(0, 2**31 - 1)
epochs = st.builds(Duration, num=st.integers(1, 4), unit=st.just(Unit.EPOCHS))
durations = st.one_of(
    epochs,
    st.builds(Duration, num=st.integers(1, 40), unit=st.just(Unit.BATCHES)),
    st.builds(Duration, num=st.integers(1, 3000), unit=st.just(Unit.TOKENS)),
)


def told(steps: list[Step]) -> list[tuple[int, list[int], bool]]:
    return [(step.epoch, step.rows.tolist(), step.ends_epoch) for step in steps]


def tokens(lengths: Rows, steps: list[Step]) -> int:
    return sum(int(lengths[step.rows].sum()) for step in steps)


@given(lengths=row_lengths, batch=batches, duration=epochs, seed=seeds)
def test_each_row_once_an_epoch(lengths: Rows, batch: BatchSize, duration: Duration, seed: int) -> None:
    steps = plan(lengths, batch, duration, seed)
    for epoch in range(1, duration.num + 1):
        mine = [step for step in steps if step.epoch == epoch]
        assert sorted(row for step in mine for row in step.rows.tolist()) == list(range(len(lengths)))
        assert [step.ends_epoch for step in mine] == [False] * (len(mine) - 1) + [True]
    assert {step.epoch for step in steps} == set(range(1, duration.num + 1))
    assert all(len(step.rows) for step in steps)


@given(lengths=row_lengths, batch=row_batches, seed=seeds)
def test_batches_of_rows_are_full_but_the_last(lengths: Rows, batch: BatchSize, seed: int) -> None:
    sizes = [len(step.rows) for step in plan(lengths, batch, Duration(num=1, unit=Unit.EPOCHS), seed)]
    assert all(size == batch.rows for size in sizes[:-1])
    assert len(sizes) == -(-len(lengths) // (batch.rows or 0))


@given(lengths=row_lengths, batch=token_batches, duration=durations, seed=seeds)
def test_batches_of_tokens_keep_to_them(lengths: Rows, batch: BatchSize, duration: Duration, seed: int) -> None:
    """Unless one row alone is longer; and a batch ends only where the next row would not fit."""
    limit = batch.tokens or 0
    steps = plan(lengths, batch, duration, seed)
    for step in steps:
        assert lengths[step.rows].sum() <= limit or len(step.rows) == 1
    for step, after in pairwise(steps):
        if not step.ends_epoch:
            assert lengths[step.rows].sum() + lengths[after.rows[0]] > limit


@given(lengths=row_lengths, batch=batches, duration=durations, seed=seeds)
def test_durations(lengths: Rows, batch: BatchSize, duration: Duration, seed: int) -> None:
    steps = plan(lengths, batch, duration, seed)
    if duration.unit is Unit.EPOCHS:
        assert steps[-1].ends_epoch
        assert steps[-1].epoch == duration.num
    elif duration.unit is Unit.BATCHES:
        assert len(steps) == duration.num
    else:
        assert tokens(lengths, steps[:-1]) < duration.num <= tokens(lengths, steps)


@given(lengths=row_lengths, batch=batches, duration=durations, seed=seeds, budget=st.integers(0, 3000))
def test_a_budget_is_never_passed(lengths: Rows, batch: BatchSize, duration: Duration, seed: int, budget: int) -> None:
    free, paid = plan(lengths, batch, duration, seed), plan(lengths, batch, duration, seed, budget)
    assert told(paid) == told(free[: len(paid)])
    assert tokens(lengths, paid) <= budget or not paid
    assert is_shortened(paid, lengths, batch, duration, seed) == (len(paid) < len(free))
    if len(paid) < len(free):
        assert tokens(lengths, free[: len(paid) + 1]) > budget


@given(lengths=row_lengths, batch=batches, duration=durations, more=st.integers(1, 5), seed=seeds)
def test_a_longer_run_begins_as_a_shorter_one(
    lengths: Rows, batch: BatchSize, duration: Duration, more: int, seed: int
) -> None:
    longer = Duration(num=duration.num + more, unit=duration.unit)
    short, long = (told(plan(lengths, batch, each, seed)) for each in (duration, longer))
    assert long[: len(short)] == short


@given(lengths=row_lengths, batch=batches, duration=durations, seed=seeds)
def test_the_same_again(lengths: Rows, batch: BatchSize, duration: Duration, seed: int) -> None:
    assert told(plan(lengths, batch, duration, seed)) == told(plan(lengths.copy(), batch, duration, seed))


def test_seeds_and_epochs_have_their_own_orders() -> None:
    orders = {tuple(order_of(50, seed, epoch).tolist()) for seed in range(4) for epoch in range(1, 4)}
    assert len(orders) == 12


def test_the_order_is_the_same_on_every_machine() -> None:
    """A run that moves must go on with the rows that it has not seen."""
    assert order_of(8, 0, 1).tolist() == [1, 3, 7, 6, 0, 4, 2, 5]


def test_orders_are_fair() -> None:
    """Over many seeds a row is first about as often as another."""
    first = Counter(int(order_of(5, seed, 1)[0]) for seed in range(2000))
    assert all(300 < count < 500 for count in first.values())


@pytest.mark.parametrize("batch", [BatchSize(rows=3), BatchSize(tokens=3)])
def test_no_rows_have_no_plan(batch: BatchSize) -> None:
    none = np.array([], np.int64)
    assert cut(none, batch) == []
    assert plan(none, batch, Duration(num=3, unit=Unit.BATCHES), 0) == []


def test_text_is_cut_where_the_next_row_would_not_fit() -> None:
    runs = cut(np.array([5, 5, 5, 12, 3, 7, 1]), BatchSize(tokens=10))
    assert [run.tolist() for run in runs] == [[0, 1], [2], [3], [4, 5], [6]]
