"""Rows in tokens, as numbers: how long, how much of them is learned, which are cut, and how some of them read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from luthier.errors import ContextTooLong, InvalidInput
from luthier.platform.data.plan import Rows
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Example, Rendering, Row, num_tokens, render_each
from luthier.platform.data.report import Bin, Piece

MAX_PIECES, MAX_PIECE_CHARACTERS, TAIL_CHARACTERS = 12, 600, 100
"""Of a sample in the report; the rest of it is left out."""


@dataclass(frozen=True)
class Measured:
    """Tokens of a set of rows. A row is one example, but a long text several and a row without tokens none."""

    num_rows: int
    owners: Rows
    """Of each example: the position of its row."""
    lengths: Rows
    """Of each example."""
    learned: Rows
    """Learned tokens of each example."""
    overlong: NDArray[np.bool_]
    """Of each row: it exceeds its share of the context."""
    faults: Mapping[str, Sequence[int]]
    """Why rows cannot be rendered, and their numbers from 1."""

    @property
    def row_lengths(self) -> Rows:
        return np.bincount(self.owners, self.lengths, self.num_rows).astype(np.int64)

    def of_rows(self, kept: Sequence[int]) -> "Measured":
        """The same for some of the rows, in rising order."""
        positions = np.asarray(kept, np.int64)
        mine = np.isin(self.owners, positions)
        return Measured(
            num_rows=len(kept),
            owners=np.searchsorted(positions, self.owners[mine]),
            lengths=self.lengths[mine],
            learned=self.learned[mine],
            overlong=self.overlong[positions],
            faults={},
        )


def measure(rows: Sequence[Row], prompts: Prompts, how: Rendering, may_drop: bool) -> Measured:
    """`may_drop` says that a row which cannot be cut to its share is overlong and no fault."""
    owners: list[int] = []
    lengths: list[int] = []
    learned: list[int] = []
    overlong = np.zeros(len(rows), np.bool_)
    faults: dict[str, list[int]] = {}

    def refuse(number: int, error: InvalidInput) -> None:
        if may_drop and isinstance(error, ContextTooLong):
            overlong[number - 1] = True
        else:
            faults.setdefault(error.message, []).append(number)

    for number, examples in render_each(rows, prompts, how, refuse):
        owners += [number - 1] * len(examples)
        lengths += map(num_tokens, examples)
        learned += (sum(sample.num_learned for sample in example) for example in examples)
        overlong[number - 1] = any(sample.was_cut for example in examples for sample in example)
    return Measured(len(rows), _array(owners), _array(lengths), _array(learned), overlong, faults)


def histogram(lengths: Rows) -> list[Bin]:
    """Rows by tokens, in powers of two from 16; bins without rows are left out."""
    powers = np.ceil(np.log2(np.maximum(lengths, 16))).astype(np.int64)
    found, counts = np.unique(powers, return_counts=True)
    return [Bin(up_to=2**power, rows=count) for power, count in zip(found.tolist(), counts.tolist(), strict=True)]


def samples(rows: Iterable[Row], prompts: Prompts, how: Rendering) -> list[list[Piece]]:
    """The first example of each row as the model reads it, special tokens and all."""
    rendered = render_each(rows, prompts, how, lambda number, error: None)
    return [_pieces(examples[0], prompts) for _, examples in rendered if examples]


def _array(values: list[int]) -> Rows:
    return np.array(values, np.int64)


def _pieces(example: Example, prompts: Prompts) -> list[Piece]:
    pieces = []
    for sample in example:
        edges = [0, *(edge for span in sample.learned for edge in span), len(sample.ids)]
        for number, (start, end) in enumerate(pairwise(edges)):
            text = _shown(prompts.decode(sample.ids[start:end]))
            pieces.append(Piece(text=text, learned=number % 2 == 1))
    return [piece for piece in pieces if piece.text][:MAX_PIECES]


def _shown(text: str) -> str:
    if len(text) <= MAX_PIECE_CHARACTERS:
        return text
    left_out = len(text) - MAX_PIECE_CHARACTERS
    return f"{text[: MAX_PIECE_CHARACTERS - TAIL_CHARACTERS]} [... {left_out} ...] {text[-TAIL_CHARACTERS:]}"
