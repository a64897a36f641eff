"""What a run does at its limits: too little memory, a loss that leaves the ground."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from luthier.errors import LossDiverged, TrainingFailed
from luthier.platform.data.plan import Rows, auto_batch
from luthier.platform.data.rendering import Example
from luthier.platform.jobs import EventType
from luthier.platform.memory import MOMENT_BYTES
from luthier.platform.options import BatchSize
from luthier.platform.run_files import read_pass_tokens, write_pass_tokens
from luthier.train.config import StepRecord
from luthier.train.model import TunedModel
from luthier.train.packing import Batch, pack
from luthier.train.recompute import WORDS, Recompute
from luthier.train.room import Taken, is_out_of_memory, room
from luthier.train.team import Team

SPIKE_STEPS = 5
SPIKE_FACTOR = 2.0
SPIKE_MARGIN = 1.0
"""The loss explodes when its median over the last 5 steps is above twice that of the first 5, plus 1 nat; one bad batch
is none."""
FIRST_TRY, LAST_TRY = 1024, 65_536
"""Tokens of a pass; on the CPU, where long passes gain nothing, the last try is the limit that was given."""

Given = TypeVar("Given")


class PassLimit:
    """Tokens of one pass through the model; less where memory does not reach.

    Kept in a file of the run's folder, where a worker finds it that starts after another ran out of memory.
    """

    def __init__(
        self, max_tokens: int, file: Path, team: Team, note: Callable[[EventType, str], None], recompute: Recompute
    ) -> None:
        self.max_tokens = read_pass_tokens(file) or max_tokens
        self._file, self._team, self._note, self._recompute = file, team, note, recompute

    def passes(self, batch: Batch, work: Callable[[list[Batch]], Given]) -> Given:
        """Gives work the passes of a batch, and after each lack of memory smaller ones.

        Where the largest is one example, layers are computed again on the way back from then on.
        Workers that share weights wait for each other in every pass: there the run starts again from its checkpoint.
        """
        while True:
            parts = self._team.passes(batch, self.max_tokens)
            try:
                return work(parts)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                is_eased = self._ease(parts)
                if self._team.mesh is not None:
                    raise
                reason = str(error)
            if not is_eased:
                way = " or leave activation_checkpointing at auto" if self._recompute.mode == "off" else ""
                raise TrainingFailed(f"One row needs more memory than there is: lower context_length{way}. ({reason})")
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def batch_size(self, model: TunedModel, examples: list[Example], lengths: Rows) -> BatchSize:
        """Tokens of an optimizer step: what fits in one pass of each worker, with enough steps an epoch to learn."""
        if self._team.mesh is None:  # with shared weights a lack of memory is no measure: it ends the process
            self._keep(self._team.least(self._measured(model, examples, lengths)))
        batch = auto_batch(int(lengths.sum()), self.max_tokens * self._team.world_size)
        self._note(
            EventType.BATCH_SIZE, f"Passes of {self.max_tokens} tokens fit; a batch has up to {batch.tokens} tokens"
        )
        return batch

    def _ease(self, parts: list[Batch]) -> bool:
        """Asks less of the memory; False when these passes cannot be made smaller."""
        largest = max(parts, key=lambda part: part.num_tokens)
        if len(set(largest.examples)) == 1 and torch.is_grad_enabled() and self._recomputes():
            return True
        self._lower(min(self.max_tokens, largest.num_tokens) // 2)
        return any(len(set(part.examples)) > 1 for part in parts)

    def _recomputes(self) -> bool:
        """Whether that begins now."""
        if not self._recompute.switch_on():
            return False
        self._note(EventType.OUT_OF_MEMORY, f"{WORDS}; the run goes on")
        return True

    def _lower(self, max_tokens: int) -> None:
        self._keep(max(1, max_tokens))
        self._note(EventType.OUT_OF_MEMORY, f"Passes are halved to {self.max_tokens} tokens; the run goes on")

    def _keep(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        write_pass_tokens(self._file, max_tokens)

    def _measured(self, model: TunedModel, examples: list[Example], lengths: Rows) -> int:
        """The largest pass, in powers of two, that was tried and fits; the longest examples go first."""
        longest = np.argsort(-lengths, kind="stable")
        filled = np.cumsum(lengths[longest])
        last = LAST_TRY if model.device.type == "cuda" else max(self.max_tokens, FIRST_TRY)
        fits, limit = FIRST_TRY // 2, FIRST_TRY
        left, taken = room(model, self._team.world_size, MOMENT_BYTES), Taken(model.device)
        while limit <= last:
            rows = longest[: max(1, int(np.searchsorted(filled, limit)))]
            try:
                losses, _ = model.token_losses(pack([examples[row] for row in rows]))
                losses.sum().backward()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1 and self._recomputes():
                    taken = Taken(model.device)
                    continue
                break
            finally:
                model.module.zero_grad(set_to_none=True)
            if taken.most() >= left:
                break
            fits, limit = limit, limit * 2
            if len(rows) == len(examples):
                break
        return fits


def check_loss(loss: float, norm: float, history: Sequence[StepRecord], step: int, num_steps: int) -> None:
    """LossDiverged for a loss or gradient that is no number, or that explodes; the weights are still those before."""
    check_number(loss, "training loss", step, num_steps)
    check_number(norm, "gradient's norm", step, num_steps)
    if len(history) < 2 * SPIKE_STEPS - 1:
        return
    first = np.median([record.training_loss for record in history[:SPIKE_STEPS]])
    last = np.median([record.training_loss for record in history[1 - SPIKE_STEPS :]] + [loss])
    if last > SPIKE_FACTOR * first + SPIKE_MARGIN:
        raise LossDiverged(
            f"The training loss explodes: {last:.2f} at step {step} of {num_steps}, {first:.2f} at first. "
            "Try a smaller learning rate."
        )


def check_number(value: float, what: str, step: int, num_steps: int) -> None:
    if not math.isfinite(value):
        raise LossDiverged(f"The {what} is {value} at step {step} of {num_steps}. Try a smaller learning rate.")
