"""What a run minimises: cross-entropy of the learned tokens, or preference of chosen over rejected answers.

An objective gives sums and counts, so that passes and workers add up to one mean.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from luthier.train.model import TunedModel
from luthier.train.packing import Batch


class Objective(Protocol):
    needs_reference: bool
    """The log-probabilities of each document before any training."""

    def loss(self, model: TunedModel, batch: Batch, reference: Tensor | None) -> tuple[Tensor, int]:
        """The sum over the batch, and how many losses it sums."""


class CrossEntropy:
    """Mean over the learned tokens."""

    needs_reference = False

    def loss(self, model: TunedModel, batch: Batch, reference: Tensor | None) -> tuple[Tensor, int]:
        losses, _ = model.token_losses(batch)
        return losses.sum(), len(losses)


@dataclass(frozen=True)
class Preference:
    """DPO's loss, Rafailov et al. 2023, equation 7; the reference is the model that the run began with."""

    beta: float
    needs_reference = True

    def loss(self, model: TunedModel, batch: Batch, reference: Tensor | None) -> tuple[Tensor, int]:
        assert reference is not None  # [examples, 2]
        before = reference[batch.examples[::2]].to(model.device)
        gained = log_probabilities(model, batch).view(before.shape) - before
        return -logsigmoid(self.beta * (gained[:, 0] - gained[:, 1])).sum(), len(gained)


def log_probabilities(model: TunedModel, batch: Batch) -> Tensor:
    """[documents]: of each document's learned tokens together."""
    losses, documents = model.token_losses(batch)
    return torch.zeros(len(batch.bounds), device=losses.device).index_add(0, documents, -losses)
