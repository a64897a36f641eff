"""The proof that a tuned model answers: its fingerprint's probes through the engine, with an adapter and without."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from luthier.errors import AdapterRefused, Unavailable
from luthier.platform.data.prompts import Prompts
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.options import Method
from luthier.platform.weights.artifacts import fault_of
from luthier.platform.weights.fingerprint import FINGERPRINT, QUESTIONS, Fingerprint, Scores, distance
from luthier.serve.threads import ADAPTERS

UNPROVED = "it was trained elsewhere, or before fingerprints: it changes the base model's answers, no more is known"
UNPROVED_OWN = "it was trained before fingerprints: its files are those that were published, no more is known"

MAX_KNOWN = 1024
"""Texts, of some hundred tokens each."""

Asked = Sequence[tuple[Sequence[int], int]]
"""Texts in tokens, and where in each the answer begins."""
Reading = Awaitable[Fingerprint | None]
"""Of `fingerprint_of`."""
Place = Callable[[], Awaitable[str | None]]
"""Puts an adapter into the engine, or says why it cannot be there."""


class Scorer(Protocol):
    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        """The log-probability of each token from a place on. Nobody is billed. ValueError when a token is unknown."""


class KnownBase:
    """An engine that asks its base model once for each text: what that says is the same as long as the engine lives."""

    def __init__(self, engine: Scorer) -> None:
        self._engine = engine
        self._known: dict[tuple[tuple[int, ...], int], list[float]] = {}

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        if adapter is not None:
            return await self._engine.score(ids, start, adapter)
        text = tuple(ids), start
        if text not in self._known:
            scores = await self._engine.score(ids, start, None)
            if len(self._known) >= MAX_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[text] = scores
        return self._known[text]


async def prove(engine: Scorer, prompts: Prompts, version: ModelVersion, reading: Reading, place: Place) -> Proof:
    """Of an adapter that `place` puts into the engine. OSError as `fault_of`.

    The base model is asked only where the tuned one's answers are not the trainer's own: a first token waits for it.
    """
    try:
        fingerprint = await reading
    except ValueError as error:
        return _unreadable(error)
    if fault := await place():
        return refused(fault)
    asked = _asked(fingerprint, prompts)
    try:
        tuned = await _scores(engine, asked, version)
        if fingerprint and fingerprint.is_met(tuned):
            return Proof(state=ProofState.PROVED)
        base = await _scores(engine, asked, None)
    except ValueError as error:
        return refused(f"it was trained on another base model: {error}")
    if fingerprint is None:
        return _differs(tuned, base)
    if fault := fingerprint.fault(tuned, base):
        return refused(fault)
    if doubt := fingerprint.doubt(tuned, base):
        return Proof(state=ProofState.UNPROVED, reason=doubt)
    return Proof(state=ProofState.PROVED)


async def prove_own(version: ModelVersion, start: Callable[[], Scorer]) -> Proof:
    """Of a version with weights of its own. No engine is started with files that are not those that were published."""
    try:
        if fault := await ADAPTERS.run(fault_of, Path(version.path)):
            return refused(fault)
        fingerprint = await ADAPTERS.run(fingerprint_of, version)
    except ValueError as error:
        return _unreadable(error)
    except OSError as error:
        raise not_given(version) from error
    engine = start()
    if fingerprint is None:
        return Proof(state=ProofState.UNPROVED, reason=UNPROVED_OWN)
    try:
        scores = await _scores(engine, _probes(fingerprint), None)
    except ValueError as error:
        return refused(f"its tokens are not its trainer's: {error}")
    fault = fingerprint.fault_of_own(scores)
    return refused(fault) if fault else Proof(state=ProofState.PROVED)


def refused(reason: str) -> Proof:
    return Proof(state=ProofState.REFUSED, reason=reason)


def refusal(version: ModelVersion, reason: str) -> AdapterRefused:
    return AdapterRefused(
        f"Model {version.model} cannot be asked: {reason}. Tune or import it again; other models are not concerned."
    )


def not_given(version: ModelVersion) -> Unavailable:
    return Unavailable(f"Storage does not give the files of model {version.model} just now. Try again in a moment.")


def fingerprint_of(version: ModelVersion) -> Fingerprint | None:
    """ValueError when it is none of this kind of model."""
    try:
        taken = Path(version.path, FINGERPRINT).read_text()
    except FileNotFoundError:
        return None
    fingerprint = Fingerprint.model_validate_json(taken)
    if fingerprint.is_of_adapter is (version.method is Method.FULL):
        raise ValueError(f"it is no fingerprint of a model by method {version.method.value}")
    return fingerprint


def _unreadable(error: ValueError) -> Proof:
    return refused(f"its {FINGERPRINT} cannot be read: {' '.join(str(error).split())[:200]}")


def _asked(fingerprint: Fingerprint | None, prompts: Prompts) -> Asked:
    return _probes(fingerprint) if fingerprint else [(prompts.encode(text), 1) for text in QUESTIONS]


def _probes(fingerprint: Fingerprint) -> Asked:
    return [(probe.ids, probe.start) for probe in fingerprint.probes]


def _differs(tuned: Scores, base: Scores) -> Proof:
    """All that can be said without a fingerprint."""
    change = distance(tuned, base)
    if change == 0:
        return refused("it answers like its base model")
    if not math.isfinite(change):
        return refused("its answers have no probabilities")
    return Proof(state=ProofState.UNPROVED, reason=UNPROVED)


async def _scores(engine: Scorer, asked: Asked, adapter: ModelVersion | None) -> Scores:
    """In one step of the engine, if it has room."""
    return await asyncio.gather(*(engine.score(ids, start, adapter) for ids, start in asked))
