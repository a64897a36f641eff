from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.prompts import Sample
from luthier.train.packing import IGNORED, Batch, batches, pack, steps_per_epoch

lengths = st.lists(st.integers(2, 12), min_size=1, max_size=30)


def samples_of(sizes: list[int]) -> list[Sample]:
    """Each sample's tokens are its own number, so that a token tells where it came from."""
    return [Sample(ids=(number,) * size, num_prompt=size // 2) for number, size in enumerate(sizes, 1)]


def documents(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(batch.input_ids[start:end].tolist()) for start, end in batch.bounds]


def test_a_pack_restarts_positions_and_learns_completions_only() -> None:
    batch = pack([Sample(ids=(5, 6, 7), num_prompt=2), Sample(ids=(8, 9), num_prompt=1)])
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1]
    assert batch.labels.tolist() == [IGNORED, IGNORED, 7, IGNORED, 9]
    assert batch.bounds == [(0, 3), (3, 5)]
    assert (batch.num_tokens, batch.num_labels) == (5, 2)


def test_the_first_token_of_a_document_is_never_learned() -> None:
    assert pack([Sample(ids=(5, 6), num_prompt=0)]).labels.tolist() == [IGNORED, 6]


@given(lengths, st.integers(1, 7), st.integers(0, 5))
def test_an_epoch_has_each_row_once(sizes: list[int], batch_size: int, seed: int) -> None:
    samples = samples_of(sizes)
    found = batches(samples, batch_size, seed, 1)
    assert len(found) == steps_per_epoch(len(samples), batch_size)
    assert sorted(ids for batch in found for ids in documents(batch)) == [s.ids for s in samples]


@given(lengths, st.integers(1, 7), st.integers(2, 4))
def test_the_ranks_share_each_batch_out(sizes: list[int], batch_size: int, world_size: int) -> None:
    samples = samples_of(sizes)
    shares = [batches(samples, batch_size, 0, 1, rank, world_size) for rank in range(world_size)]
    for step, whole in enumerate(batches(samples, batch_size, 0, 1)):
        assert sorted(ids for share in shares for ids in documents(share[step])) == sorted(documents(whole))


def test_seed_and_epoch_decide_the_order() -> None:
    samples = samples_of([3] * 50)

    def order(seed: int, epoch: int) -> list[tuple[int, ...]]:
        return [ids for batch in batches(samples, 8, seed, epoch) for ids in documents(batch)]

    assert order(1, 1) == order(1, 1)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (1, 2)}) == 4


@given(lengths, st.integers(1, 40))
def test_passes_hold_the_limit_and_every_document(sizes: list[int], max_tokens: int) -> None:
    batch = pack(samples_of(sizes))
    parts = list(batch.passes(max_tokens))
    assert [ids for part in parts for ids in documents(part)] == documents(batch)
    assert [label for part in parts for label in part.labels.tolist()] == batch.labels.tolist()
    assert all(part.num_tokens <= max_tokens or len(part.bounds) == 1 for part in parts)
