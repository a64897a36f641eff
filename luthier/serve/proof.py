"""The proof that an adapter answers: its fingerprint's probes through the engine, with it and without."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from luthier.platform.fingerprint import FINGERPRINT, QUESTIONS, Fingerprint, Scores, distance
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.prompts import Prompts

UNPROVED = "it was trained elsewhere, or before fingerprints: it changes the base model's answers, no more is known"

Asked = Sequence[tuple[Sequence[int], int]]
"""Texts in tokens, and where in each the answer begins."""
Place = Callable[[], Awaitable[str | None]]
"""Puts an adapter into the engine, or says why it cannot be there."""


class Scorer(Protocol):
    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        """The log-probability of each token from a place on. Nobody is billed. ValueError when a token is unknown."""


async def prove(engine: Scorer, prompts: Prompts, version: ModelVersion, place: Place) -> Proof:
    """Of an adapter that `place` puts into the engine. The base model is asked meanwhile."""
    try:
        fingerprint = await asyncio.to_thread(_read, Path(version.path, FINGERPRINT))
    except ValueError as error:
        return refused(f"its {FINGERPRINT} cannot be read: {' '.join(str(error).split())[:200]}")
    asked = _asked(fingerprint, prompts)
    asking = asyncio.create_task(_scores(engine, asked, None))
    try:
        fault = await place()
        base = await asking
        tuned = [] if fault else await _scores(engine, asked, version)
    except ValueError as error:
        return refused(f"it was trained on another base model: {error}")
    finally:
        asking.cancel()
    if fault:
        return refused(fault)
    if fingerprint is None:
        return _differs(tuned, base)
    fault = fingerprint.fault(tuned, base)
    return refused(fault) if fault else Proof(state=ProofState.PROVED)


def refused(reason: str) -> Proof:
    return Proof(state=ProofState.REFUSED, reason=reason)


def _read(file: Path) -> Fingerprint | None:
    return Fingerprint.model_validate_json(file.read_text()) if file.is_file() else None


def _asked(fingerprint: Fingerprint | None, prompts: Prompts) -> Asked:
    if fingerprint is None:
        return [(prompts.encode(text), 1) for text in QUESTIONS]
    return [(probe.ids, probe.start) for probe in fingerprint.probes]


def _differs(tuned: Scores, base: Scores) -> Proof:
    """All that can be said without a fingerprint."""
    if distance(tuned, base) == 0:
        return refused("it answers like its base model")
    return Proof(state=ProofState.UNPROVED, reason=UNPROVED)


async def _scores(engine: Scorer, asked: Asked, adapter: ModelVersion | None) -> Scores:
    """In one step of the engine, if it has room."""
    return await asyncio.gather(*(engine.score(ids, start, adapter) for ids, start in asked))
