"""Examples into batches: one optimizer step's documents stand one behind the other, with no padding.

A batch knows the bounds of its documents; the attention kernel keeps them apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

import torch

from luthier.platform.data.rendering import Example

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
    examples: list[int]
    """Which example each document belongs to, by the number that the caller gave it; they do not part."""

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    def passes(self, max_tokens: int) -> Iterator["Batch"]:
        """The same documents in runs of at most max_tokens; a longer example stands alone."""
        first = last = 0
        for size in (len(list(group)) for _, group in groupby(self.examples)):
            if last > first and self.bounds[last + size - 1][1] - self.bounds[first][0] > max_tokens:
                yield self._part(first, last)
                first = last
            last += size
        if last > first:
            yield self._part(first, last)

    def _part(self, first: int, last: int) -> "Batch":
        start, end = self.bounds[first][0], self.bounds[last - 1][1]
        bounds = [(s - start, e - start) for s, e in self.bounds[first:last]]
        cut = slice(start, end)
        return Batch(self.input_ids[cut], self.position_ids[cut], self.labels[cut], bounds, self.examples[first:last])


def pack(examples: Sequence[Example], numbers: Sequence[int] | None = None) -> Batch:
    """The documents of some examples; `numbers` name the examples, by default 0, 1, ..."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    for number, example in zip(numbers or range(len(examples)), examples, strict=True):
        for sample in example:
            learned = [IGNORED] * len(sample.ids)
            for start, end in sample.learned:
                # The first token of a document is nobody's target: its predecessor is another document's last token.
                learned[max(start, 1) : end] = sample.ids[max(start, 1) : end]
            ids += sample.ids
            positions += range(len(sample.ids))
            labels += learned
            owners.append(number)
    bounds = list(pairwise(accumulate((len(sample.ids) for example in examples for sample in example), initial=0)))
    return Batch(_int64(ids), _int64(positions), _int64(labels), bounds, owners)


def _int64(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)
