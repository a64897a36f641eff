"""Which rows each optimizer step of a run takes: a function of lengths, batch size, duration and seed alone.

The data report and the trainer share it, so that the tokens a run is priced at are those that it trains.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from luthier.platform.options import MAX_BATCH_TOKENS, MIN_BATCH_TOKENS, BatchSize, Duration, Unit

AUTO_STEPS = 20
"""An epoch of automatic batches has at least so many steps, or as many as it has rows."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    epoch: int
    """From 1."""
    rows: Rows
    """Indices of the rows of all workers."""
    ends_epoch: bool


def auto_batch(tokens: int, room: int = MAX_BATCH_TOKENS) -> BatchSize:
    """The batch of `auto` for an epoch of so many tokens, where so many fit: what is foretold and what is trained."""
    return BatchSize(tokens=max(MIN_BATCH_TOKENS, min(room, tokens // AUTO_STEPS, MAX_BATCH_TOKENS)))


def plan(lengths: Rows, batch: BatchSize, duration: Duration, seed: int, max_tokens: int | None = None) -> list[Step]:
    """All steps of a run; `lengths` are the rows' tokens. With max_tokens it ends before the step that would pass it.

    A duration in tokens ends with the step that reaches it. Without rows there are no steps.
    """
    steps: list[Step] = []
    tokens = 0
    for step in _all_steps(lengths, batch, duration, seed):
        tokens += int(lengths[step.rows].sum())
        if max_tokens is not None and tokens > max_tokens:
            break
        steps.append(step)
    return steps


def is_shortened(steps: list[Step], lengths: Rows, batch: BatchSize, duration: Duration, seed: int) -> bool:
    """Whether there was more to do than these steps of a plan: max_tokens ended it."""
    return any(islice(_all_steps(lengths, batch, duration, seed), len(steps), None))


def tokens_of(steps: list[Step], lengths: Rows) -> int:
    return sum(int(lengths[step.rows].sum()) for step in steps)


def order_of(num_rows: int, seed: int, epoch: int) -> Rows:
    """(seed, epoch) alone decides the order of rows."""
    return np.random.default_rng((seed, epoch)).permutation(num_rows)


def cut(lengths: Rows, batch: BatchSize) -> list[Rows]:
    """Positions 0..n-1 in runs of one batch each; a row longer than the batch's tokens stands alone."""
    if batch.rows:
        return [np.arange(at, min(at + batch.rows, len(lengths))) for at in range(0, len(lengths), batch.rows)]
    assert batch.tokens
    runs, start, filled = [], 0, 0
    for at, length in enumerate(lengths.tolist()):
        if at > start and filled + length > batch.tokens:
            runs.append(np.arange(start, at))
            start, filled = at, 0
        filled += length
    return [*runs, np.arange(start, len(lengths))] if len(lengths) else []


def _all_steps(lengths: Rows, batch: BatchSize, duration: Duration, seed: int) -> Iterator[Step]:
    num, tokens = 0, 0
    for step in _steps(lengths, batch, seed):
        if _is_over(duration, step.epoch, num, tokens):
            return
        yield step
        num, tokens = num + 1, tokens + int(lengths[step.rows].sum())


def _steps(lengths: Rows, batch: BatchSize, seed: int) -> Iterator[Step]:
    for epoch in count(1) if len(lengths) else ():
        order = order_of(len(lengths), seed, epoch)
        runs = cut(lengths[order], batch)
        for number, run in enumerate(runs, 1):
            yield Step(epoch, order[run], ends_epoch=number == len(runs))


def _is_over(duration: Duration, epoch: int, num_steps: int, tokens: int) -> bool:
    done = {Unit.EPOCHS: epoch - 1, Unit.BATCHES: num_steps, Unit.TOKENS: tokens}[duration.unit]
    return done >= duration.num
