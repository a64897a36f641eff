"""Weights of their own: looked at before an engine reads them, and asked what their trainer measured."""

import asyncio
import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from luthier.errors import Unavailable
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.options import Method
from luthier.platform.weights.artifacts import MANIFEST, content_of, place
from luthier.platform.weights.fingerprint import FINGERPRINT, Fingerprint, Probe
from luthier.serve.adapters.proof import prove_own
from tests.factories import ADMIN
from tests.fakes import failing_reads

TUNED = (-0.1, -0.2, -0.3)


class Engine:
    """Answers so far off the truth."""

    def __init__(self, off: float = 0.0) -> None:
        self._off = off
        self.num_starts = 0

    def start(self) -> "Engine":
        self.num_starts += 1
        return self

    async def score(self, ids: Sequence[int], start: int, adapter: ModelVersion | None) -> list[float]:
        if max(ids) > 4:
            raise ValueError("token 5 is out of vocabulary")
        return [score + self._off for score in TUNED]


def fingerprint(ids: tuple[int, ...] = (1, 2, 3, 4), base: tuple[float, ...] | None = None) -> str:
    return Fingerprint(dtype="float32", probes=(Probe(ids=ids, start=1, tuned=TUNED, base=base),)).model_dump_json()


def published(folder: Path, taken: str | None) -> ModelVersion:
    part = folder / "part"
    part.mkdir(parents=True)
    (part / "model.safetensors").write_text("weights")
    if taken is not None:
        (part / FINGERPRINT).write_text(taken)
    path = place(part, content_of(part), {}, folder)
    told = {"model": "M", "version": 1, "job_id": "ft_1", "base_model": "tiny", "rank": 0, "owner": ADMIN.user}
    return ModelVersion(number=1, path=str(path), sha256=path.name, method=Method.FULL, created_on=1, **told)


def proof_of(engine: Engine, version: ModelVersion) -> Proof:
    return asyncio.run(prove_own(version, engine.start))


@pytest.mark.parametrize(
    ("taken", "off", "state", "reason"),
    [
        (fingerprint(), 0.0, ProofState.PROVED, ""),
        (fingerprint(), 0.09, ProofState.PROVED, ""),
        (fingerprint(), -1.0, ProofState.REFUSED, "it answers 1 nats off what its trainer measured, 0.1 are allowed"),
        (fingerprint(ids=(1, 2, 3, 5)), 0.0, ProofState.REFUSED, "its tokens are not its trainer's: token 5"),
        (None, 0.0, ProofState.UNPROVED, "trained before fingerprints"),
        ("{}", 0.0, ProofState.REFUSED, "its fingerprint.json cannot be read"),
        (fingerprint(base=TUNED), 0.0, ProofState.REFUSED, "no fingerprint of a model by method full"),
    ],
)
def test_what_is_found(tmp_path: Path, taken: str | None, off: float, state: ProofState, reason: str) -> None:
    proof = proof_of(Engine(off), published(tmp_path, taken))
    assert proof.state is state
    assert reason in proof.reason


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: (folder / "model.safetensors").write_text("others"), "is not what was published"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing in storage"),
        (lambda folder: (folder / FINGERPRINT).unlink(), "fingerprint.json is missing in storage"),
    ],
)
def test_no_engine_is_started_with_damaged_files(tmp_path: Path, change: Callable[[Path], object], fault: str) -> None:
    engine, version = Engine(), published(tmp_path, fingerprint())
    change(Path(version.path))
    proof = proof_of(engine, version)
    assert (proof.state, engine.num_starts) == (ProofState.REFUSED, 0)
    assert fault in proof.reason


@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST, FINGERPRINT])
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_what_storage_does_not_give_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    engine, version = Engine(), published(tmp_path, fingerprint())
    failing_reads(monkeypatch, Path(version.path, name), code)
    with pytest.raises(Unavailable, match="Storage does not give the files of model M just now"):
        proof_of(engine, version)
    assert engine.num_starts == 0


def test_storage_that_is_away_is_no_fault(tmp_path: Path) -> None:
    engine, version = Engine(), published(tmp_path / "storage", fingerprint())
    (tmp_path / "storage").rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        proof_of(engine, version)
    assert engine.num_starts == 0
