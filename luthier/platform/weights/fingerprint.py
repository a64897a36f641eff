"""What a tuned model says of a few probes, as its trainer measured it; an engine that loads it must say the same.

Pure. Distances are in nats: the mean of |difference| over the log-probabilities of the probes' answers.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from luthier.platform.frozen import Frozen

FINGERPRINT = "fingerprint.json"
QUESTIONS = ("Write a line about the sea.",)
"""Of no job's data: the fingerprint holds them and what the model answers, which whoever may ask it can see. On a CPU
each costs an adapter's first request some 100 ms."""

EXACT = 0.02
"""Trainer and engine sum in other orders; more than that is another computation."""
ROUNDED = 2.0
"""How far the adapter's answers may be off, by how far the base model's are: both are rounded alike."""
PEAKED = 0.05
"""Of its effect, besides: what moves the base's flat answers little moves a tuned model's peaked ones farther."""
HIDDEN = 0.25
"""Of its effect: an adapter that lacks more of it may be applied in part, though rounding explains it too. Fourteen
of SmolLM2-135M, with bfloat16 on one side or both, lack at most 0.14 of effects above 0.5 nats, and 0.35 of those
below 0.33; without the MLPs' targets, the attention's, or half the layers' each lacks 0.32 or more."""
MAX_ROUNDING = {"float32": 0.1, "bfloat16": 0.25, "nf4": 1.5}
"""How far the same weights may be off, by what the trainer computed in; others are farther."""
SEEN = 1e-3
"""A change that no rounding hides whole; a base model that is off by so much was rounded otherwise."""
UNCHANGED = 0.1
"""Of its effect: an adapter with less is not applied."""

Scores = Sequence[Sequence[float]]
"""The log-probabilities of each probe's answer, token by token."""


class Probe(Frozen):
    ids: tuple[int, ...]
    """A question as the task asks it, and the tuned model's likeliest answer."""
    start: int = Field(ge=1)
    """Where what is scored begins: the question, whose unlikely tokens show most; in older ones the answer."""
    tuned: tuple[float, ...]
    base: tuple[float, ...] | None
    """Of the same answer, without the adapter; weights of their own have no without."""


class Fingerprint(Frozen):
    format: Literal[1] = 1
    dtype: Literal["float32", "bfloat16", "nf4"]
    """What the trainer computed in."""
    probes: tuple[Probe, ...]

    @property
    def is_of_adapter(self) -> bool:
        return all(probe.base is not None for probe in self.probes)

    def is_met(self, tuned: Scores) -> bool:
        """These are the trainer's own answers, by far nearer than the base model's: no more need be asked."""
        off, effect = distance(tuned, self._tuned), distance(self._tuned, self._plain)
        return off <= min(EXACT, UNCHANGED * effect)

    def fault(self, tuned: Scores, base: Scores) -> str | None:
        """What is wrong with an engine whose answers these are, with the adapter and without; None: nothing."""
        known, plain = self._tuned, self._plain
        rounding, effect = distance(base, plain), distance(known, plain)
        off, change = distance(tuned, known), distance(tuned, base)
        allowed = EXACT + ROUNDED * rounding + PEAKED * effect * min(1.0, rounding / SEEN)
        if not rounding <= MAX_ROUNDING[self.dtype]:
            return f"it was trained on another base model: that one is {rounding:.2g} nats off on its probes"
        if (change == 0 and effect > SEEN) or ((off > allowed or effect > EXACT) and change < effect * UNCHANGED):
            return f"it answers like its base model, which its trainer measured {effect:.2g} nats away"
        return _too_far(off, allowed)

    def doubt(self, tuned: Scores, base: Scores) -> str | None:
        """Why an engine without a fault is not proved either: rounding alone is as large as a fault would be."""
        known, plain = self._tuned, self._plain
        effect, lost = distance(known, plain), distance(_change(tuned, base), _change(known, plain))
        if lost <= max(EXACT, HIDDEN * effect):
            return None
        return f"of its effect of {effect:.2g} nats {lost:.2g} are not there, as rounding may do, or a fault"

    def fault_of_own(self, scores: Scores) -> str | None:
        """The same of weights of its own. How far rounding takes them is not measured: as far as it may a base's."""
        return _too_far(distance(scores, self._tuned), MAX_ROUNDING[self.dtype])

    @property
    def _tuned(self) -> Scores:
        return [probe.tuned for probe in self.probes]

    @property
    def _plain(self) -> Scores:
        return [probe.base for probe in self.probes if probe.base is not None]


def _too_far(off: float, allowed: float) -> str | None:
    if off <= allowed:
        return None
    return f"it answers {off:.2g} nats off what its trainer measured, {allowed:.2g} are allowed"


def _change(tuned: Scores, base: Scores) -> Scores:
    """What an adapter does, by its own engine's rounding."""
    return [[one - other for one, other in zip(*pair, strict=True)] for pair in zip(tuned, base, strict=True)]


def distance(scores: Scores, others: Scores) -> float:
    """NaN where a score is none."""
    pairs = [pair for ours, theirs in zip(scores, others, strict=True) for pair in zip(ours, theirs, strict=True)]
    return sum(abs(one - other) for one, other in pairs) / len(pairs)
