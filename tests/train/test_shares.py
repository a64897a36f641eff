"""Which rows a worker takes in a step: what batches() decided, now platform/data/plan.py and Data.share."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.data.plan import Step, plan
from luthier.platform.options import BatchSize, Duration, Unit
from luthier.train.run import Data
from tests.train.local import silent_worker
from tests.train.test_packing import documents, examples_of

lengths = st.lists(st.integers(2, 12), min_size=1, max_size=30)


def data_of(sizes: list[int]) -> Data:
    return Data(examples_of([[size] for size in sizes]), np.array(sizes, np.int64), None)


def steps_of(data: Data, batch_size: int, seed: int, epochs: int = 1) -> list[Step]:
    return plan(data.lengths, BatchSize(rows=batch_size), Duration(num=epochs, unit=Unit.EPOCHS), seed)


@given(lengths, st.integers(1, 7), st.integers(0, 5))
def test_an_epoch_has_each_row_once(sizes: list[int], batch_size: int, seed: int) -> None:
    data = data_of(sizes)
    steps = steps_of(data, batch_size, seed)
    found = [data.share(step.rows.tolist(), silent_worker()) for step in steps]
    assert len(found) == -(-len(sizes) // batch_size)
    assert sorted(ids for batch in found for ids in documents(batch)) == [row[0].ids for row in data.examples]


@given(lengths, st.integers(1, 7), st.integers(2, 4))
def test_the_ranks_share_each_batch_out(sizes: list[int], batch_size: int, world_size: int) -> None:
    data = data_of(sizes)
    for step in steps_of(data, batch_size, 0):
        whole = data.share(step.rows.tolist(), silent_worker())
        shares = [data.share(step.rows.tolist(), silent_worker(rank, world_size)) for rank in range(world_size)]
        assert sorted(ids for share in shares for ids in documents(share)) == sorted(documents(whole))
        pairs = [pair for s in shares for pair in zip(s.examples, documents(s), strict=True)]
        assert all(data.examples[number][0].ids == ids for number, ids in pairs)


def test_seed_and_epoch_decide_the_order() -> None:
    data = data_of([3] * 50)

    def orders(seed: int) -> list[tuple[int, ...]]:
        steps = steps_of(data, 8, seed, epochs=2)
        return [tuple(row for s in steps if s.epoch == epoch for row in s.rows.tolist()) for epoch in (1, 2)]

    assert orders(1) == orders(1)
    assert len({*orders(1), *orders(2)}) == 4
