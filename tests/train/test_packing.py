import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.data.prompts import Sample
from luthier.platform.data.rendering import Example
from luthier.train.packing import IGNORED, Batch, pack

sizes_of_examples = st.lists(st.lists(st.integers(2, 12), min_size=1, max_size=2), min_size=1, max_size=30)


def examples_of(sizes: list[list[int]]) -> list[Example]:
    """Each example's tokens are its own number, so that a token tells where it came from."""
    return [
        tuple(Sample(ids=(number,) * size, learned=((size // 2, size),)) for size in row)
        for number, row in enumerate(sizes, 1)
    ]


def document(ids: tuple[int, ...], *learned: tuple[int, int]) -> Example:
    return (Sample(ids=ids, learned=learned),)


def documents(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(batch.input_ids[start:end].tolist()) for start, end in batch.bounds]


def test_a_pack_restarts_positions_and_learns_what_is_marked() -> None:
    batch = pack([document((5, 6, 7), (2, 3)), document((8, 9, 1, 2, 3), (1, 2), (3, 5))])
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 1, 2, 3]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert batch.labels.tolist() == [IGNORED, IGNORED, 7, IGNORED, 9, IGNORED, 2, 3]
    assert batch.bounds == [(0, 3), (3, 8)]
    assert batch.examples == [0, 1]
    assert (batch.num_tokens, int((batch.labels != IGNORED).sum())) == (8, 4)


def test_the_first_token_of_a_document_is_never_learned() -> None:
    assert pack([document((5, 6), (0, 2))]).labels.tolist() == [IGNORED, 6]


def test_a_pair_keeps_the_number_of_its_example() -> None:
    pair = (*document((5, 6), (1, 2)), *document((5, 7), (1, 2)))
    batch = pack([pair, pair], [41, 7])
    assert batch.examples == [41, 41, 7, 7]
    assert batch.bounds == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_nothing_packs_to_nothing() -> None:
    batch = pack([])
    assert (batch.num_tokens, batch.bounds, batch.examples) == (0, [], [])
    assert batch.input_ids.dtype == torch.int64
    assert list(batch.passes(10)) == []


@given(sizes_of_examples, st.integers(1, 40))
def test_passes_hold_the_limit_and_every_document(sizes: list[list[int]], max_tokens: int) -> None:
    batch = pack(examples_of(sizes))
    parts = list(batch.passes(max_tokens))
    assert [ids for part in parts for ids in documents(part)] == documents(batch)
    assert [label for part in parts for label in part.labels.tolist()] == batch.labels.tolist()
    assert [at for part in parts for at in part.position_ids.tolist()] == batch.position_ids.tolist()
    assert [number for part in parts for number in part.examples] == batch.examples
    assert all(part.num_tokens <= max_tokens or len(set(part.examples)) == 1 for part in parts)


@given(sizes_of_examples, st.integers(1, 40))
def test_an_example_is_never_parted(sizes: list[list[int]], max_tokens: int) -> None:
    parts = list(pack(examples_of(sizes)).passes(max_tokens))
    numbers = [number for part in parts for number in set(part.examples)]
    assert sorted(numbers) == list(range(len(sizes)))
