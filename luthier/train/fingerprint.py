"""The fingerprint of what a run made, from the weights in training: what an engine that loads it must say too."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from luthier.platform.data.prompts import Sample
from luthier.platform.options import Method
from luthier.platform.weights.fingerprint import QUESTIONS, Fingerprint, Probe
from luthier.train.answers import asked
from luthier.train.model import TunedModel
from luthier.train.packing import pack
from luthier.train.run import Run

MAX_NEW_TOKENS = 16


def fingerprint(run: Run) -> Fingerprint:
    """Every worker that shares weights takes part."""
    model, config = run.model, run.config
    questions = [asked(text, run.prompts, config.rendering) for text in QUESTIONS]
    model.module.eval()
    answers = model.generate(questions, MAX_NEW_TOKENS, run.prompts.eos_id)
    samples = [_sample(*both, run.prompts.eos_id) for both in zip(questions, answers, strict=True)]
    tuned = _scores(model, samples)
    base = _base_scores(model, samples)
    model.module.train()
    probes = zip(samples, tuned, base, strict=True)
    return Fingerprint(
        dtype=_dtype(model),
        probes=tuple(Probe(ids=s.ids, start=s.learned[0][0], tuned=t, base=b) for s, t, b in probes),
    )


def _sample(question: list[int], answer: list[int], eos_id: int) -> Sample:
    ids = (*question, *answer, eos_id)
    return Sample(ids=ids, learned=((1, len(ids)),))


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped here
def _scores(model: TunedModel, samples: list[Sample]) -> list[tuple[float, ...]]:
    """The log-probabilities of each one's tokens, save the first. One at a time: memory may have room for no more."""
    losses = (model.token_losses(pack([(sample,)]))[0] for sample in samples)
    return [tuple((-each).tolist()) for each in losses]


def _base_scores(model: TunedModel, samples: list[Sample]) -> Sequence[tuple[float, ...] | None]:
    """Without the adapter; of all weights in training the base model's are gone."""
    if model.method is Method.FULL:
        return [None] * len(samples)
    with _without_adapter(model):
        scores: list[tuple[float, ...]] = _scores(model, samples)
    return scores


@contextmanager
@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is untyped here
def _without_adapter(model: TunedModel) -> Iterator[None]:
    """LoRA's second halves are zero for a while."""
    halves = {name: p for name, p in model.named_trainable().items() if "lora_B" in name}
    kept = {name: p.detach().clone() for name, p in halves.items()}
    for p in halves.values():
        p.zero_()
    try:
        yield
    finally:
        for name, p in halves.items():
            p.copy_(kept[name])


def _dtype(model: TunedModel) -> Literal["float32", "bfloat16", "nf4"]:
    if model.method is Method.QLORA:
        return "nf4"
    return "float32" if model.dtype is torch.float32 else "bfloat16"
