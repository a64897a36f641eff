"""Rows into batches: one optimizer step's rows stand one behind the other, with no padding.

A batch knows the bounds of its documents; the attention kernel keeps them apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from luthier.platform.prompts import Sample

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """T tokens of some documents. All tensors are int64."""

    input_ids: torch.Tensor
    """[T]"""
    position_ids: torch.Tensor
    """[T], from 0 in each document."""
    labels: torch.Tensor
    """[T], not shifted: the token itself where it is learned, IGNORED elsewhere."""
    bounds: list[tuple[int, int]]
    """Start and end of each document in the T tokens."""

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def num_labels(self) -> int:
        return int((self.labels != IGNORED).sum())

    def passes(self, max_tokens: int) -> Iterator["Batch"]:
        """The same documents in runs of at most max_tokens; a longer document stands alone."""
        first = 0
        for number, (_, end) in enumerate(self.bounds, 1):
            start = self.bounds[first][0]
            if number == len(self.bounds) or self.bounds[number][1] - start > max_tokens:
                bounds = [(s - start, e - start) for s, e in self.bounds[first:number]]
                cut = slice(start, end)
                yield Batch(self.input_ids[cut], self.position_ids[cut], self.labels[cut], bounds)
                first = number


def pack(samples: Sequence[Sample]) -> Batch:
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for sample in samples:
        # The first token of a document is nobody's target: its predecessor is another document's last token.
        context = max(sample.num_prompt, 1)
        ids += sample.ids
        positions += range(len(sample.ids))
        labels += [IGNORED] * context + list(sample.ids[context:])
    bounds = list(pairwise(accumulate((len(s.ids) for s in samples), initial=0)))
    return Batch(_int64(ids), _int64(positions), _int64(labels), bounds)


def batches(
    samples: Sequence[Sample], batch_size: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    """One epoch of this rank's share of each global batch; (seed, epoch) alone decides the order.

    A rank may get an empty batch when the last global batch has fewer rows than there are ranks.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(samples), generator=generator).tolist()
    starts = range(0, len(order), batch_size)
    return [pack([samples[i] for i in order[start : start + batch_size][rank::world_size]]) for start in starts]


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    return -(-num_rows // batch_size)


def _int64(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
