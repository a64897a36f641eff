"""What an engine is asked for the proof of an adapter."""

import asyncio
import math
from collections.abc import Sequence
from typing import cast

import pytest

from luthier.platform.data.prompts import Prompts
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.weights.fingerprint import Fingerprint, Probe
from luthier.serve.adapters.proof import MAX_KNOWN, KnownBase, prove
from tests.factories import ADMIN

TOLD = {"model": "M", "version": 1, "job_id": "ft_1", "base_model": "tiny", "rank": 8, "owner": ADMIN.user}
VERSION = ModelVersion(number=1, path="/none", sha256="0" * 64, created_on=1, **TOLD)


TAKEN = Fingerprint(dtype="float32", probes=(Probe(ids=(1, 2, 3), start=1, tuned=(-0.1, -0.2), base=(-4.0, -5.0)),))


class Answering:
    """An engine whose base model is the trainer's; the tuned one's answers are off."""

    def __init__(self, by: float) -> None:
        self._by = by
        self.asked: list[ModelVersion | None] = []

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        self.asked.append(adapter)
        (probe,) = TAKEN.probes
        return [each + self._by for each in probe.tuned] if adapter else list(probe.base or ())


@pytest.mark.parametrize(
    ("by", "asked", "state"),
    [
        (0.0, [VERSION], ProofState.PROVED),
        (0.019, [VERSION], ProofState.PROVED),
        (-0.03, [VERSION, None], ProofState.REFUSED),
        (math.nan, [VERSION, None], ProofState.REFUSED),
    ],
)
def test_the_base_model_is_asked_where_the_answers_are_not_the_trainers(
    by: float, asked: list[ModelVersion | None], state: ProofState
) -> None:
    engine = Answering(by)

    async def scene() -> Proof:
        return await prove(engine, cast(Prompts, None), VERSION, asyncio.sleep(0, TAKEN), lambda: asyncio.sleep(0))

    assert asyncio.run(scene()).state is state
    assert engine.asked == asked


class Counting:
    """An engine that says how often it was asked."""

    def __init__(self) -> None:
        self.num_asked = 0

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        self.num_asked += 1
        return [-1.0 * each for each in ids[start:]]


def test_the_base_model_is_asked_once_for_each_text() -> None:
    engine = Counting()
    known = KnownBase(engine)

    def scores(ids: list[int], start: int, adapter: ModelVersion | None = None) -> list[float]:
        return asyncio.run(known.score(ids, start, adapter))

    assert scores([1, 2, 3], 1) == scores([1, 2, 3], 1) == [-2.0, -3.0]
    assert engine.num_asked == 1
    assert scores([1, 2, 3], 2) == [-3.0]
    for _ in range(2):
        assert scores([1, 2, 3], 1, VERSION) == [-2.0, -3.0]
    assert engine.num_asked == 4
    for number in range(MAX_KNOWN):
        scores([number], 0)
    scores([1, 2, 3], 1)
    assert engine.num_asked == 4 + MAX_KNOWN + 1, "the oldest was forgotten"
