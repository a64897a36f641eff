"""What is compared with: our model on a pack, and transformers' own on one row at a time."""

from typing import Any

import torch

from luthier.platform.data.prompts import Sample
from luthier.platform.data.rendering import Example
from luthier.train.config import FitConfig
from luthier.train.model import TunedModel
from luthier.train.packing import IGNORED, pack

CPU = torch.device("cpu")


def loaded(config: FitConfig) -> TunedModel:
    """A model whose trained weights are no longer those it starts with: PEFT starts B at zero."""
    model = TunedModel.load(config, CPU)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.trainable():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def summed_loss(model: TunedModel, examples: list[Example]) -> torch.Tensor:
    return model.token_losses(pack(examples))[0].sum()


def plain_loss(model: Any, example: Example) -> torch.Tensor:
    """The sum over the learned tokens, by transformers' own loss."""
    return sum(_sample_loss(model, sample) for sample in example)


def labels_of(sample: Sample) -> torch.Tensor:
    """[1, T] as transformers wants them: the token itself where it is learned."""
    labels = torch.full((1, len(sample.ids)), IGNORED)
    for start, end in sample.learned:
        labels[0, start:end] = torch.tensor(sample.ids[start:end])
    return labels


def _sample_loss(model: Any, sample: Sample) -> torch.Tensor:
    labels = labels_of(sample)
    num_learned = (labels[:, 1:] != IGNORED).sum()
    return model(input_ids=torch.tensor([sample.ids]), labels=labels).loss * num_learned
