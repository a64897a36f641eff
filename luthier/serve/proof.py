"""The proof that an adapter answers: its fingerprint's probes through the engine, with it and without."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from luthier.platform.fingerprint import FINGERPRINT, QUESTIONS, Fingerprint, Scores, distance
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.prompts import Prompts

UNPROVED = "it was trained elsewhere, or before fingerprints: it changes the base model's answers, no more is known"

Asked = Sequence[tuple[Sequence[int], int]]
"""Texts in tokens, and where in each the answer begins."""


class Scorer(Protocol):
    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        """The log-probability of each token from a place on. Nobody is billed. ValueError when a token is unknown."""


async def prove(engine: Scorer, prompts: Prompts, version: ModelVersion) -> Proof:
    """Of an adapter that the engine has in memory."""
    file = Path(version.path, FINGERPRINT)
    if not file.is_file():
        return await _differs(engine, prompts, version)
    try:
        fingerprint = Fingerprint.model_validate_json(await asyncio.to_thread(file.read_text))
        tuned, base = await _scores(engine, [(probe.ids, probe.start) for probe in fingerprint.probes], version)
    except ValidationError as error:
        return refused(f"its {FINGERPRINT} cannot be read: {error.errors()[0]['msg']}")
    except ValueError as error:
        return refused(f"it was trained on another base model: {error}")
    fault = fingerprint.fault(tuned, base)
    return refused(fault) if fault else Proof(state=ProofState.PROVED)


def refused(reason: str) -> Proof:
    return Proof(state=ProofState.REFUSED, reason=reason)


async def _differs(engine: Scorer, prompts: Prompts, version: ModelVersion) -> Proof:
    """All that can be said without a fingerprint."""
    tuned, base = await _scores(engine, [(prompts.encode(text), 1) for text in QUESTIONS], version)
    if distance(tuned, base) == 0:
        return refused("it answers like its base model")
    return Proof(state=ProofState.UNPROVED, reason=UNPROVED)


async def _scores(engine: Scorer, asked: Asked, version: ModelVersion) -> tuple[Scores, Scores]:
    """With the adapter and without, in as few steps of the engine as possible."""
    found = await asyncio.gather(
        *(engine.score(ids, start, adapter) for adapter in (version, None) for ids, start in asked)
    )
    return found[: len(asked)], found[len(asked) :]
