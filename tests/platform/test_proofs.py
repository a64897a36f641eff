"""What engines found of a version, kept beside it."""

import pytest

from luthier.platform.access import Caller
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.names import parse_name
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, make_finished, make_job

pytestmark = pytest.mark.stores


def finished(registry: Registry, job_id: str, model: str) -> ModelVersion:
    registry.jobs.submit(make_job(job_id, f"LUTHIER.PUBLIC.{model}"))
    registry.jobs.tick()
    registry.jobs.finish(job_id, make_finished())
    return registry.models.get(ADMIN, parse_name(f"LUTHIER.PUBLIC.{model}", "", ""))


def test_the_newest_finding_stays(registry: Registry) -> None:
    first, second = finished(registry, "ft_1", "A"), finished(registry, "ft_2", "B")
    registry.proofs.report(first.number, Proof(state=ProofState.PROVED))
    registry.proofs.report(first.number, Proof(state=ProofState.REFUSED, reason="damaged"))
    found = registry.proofs.of([first, second])
    assert found[first.number] == Proof(state=ProofState.REFUSED, reason="damaged", checked_on=5_000)
    assert found[second.number].state is ProofState.UNPROVED
    assert "no engine has loaded it yet" in found[second.number].reason


def test_a_dropped_model_takes_its_proof_along(registry: Registry) -> None:
    version = finished(registry, "ft_1", "A")
    registry.proofs.report(version.number, Proof(state=ProofState.PROVED))
    registry.models.drop(ADMIN, parse_name("LUTHIER.PUBLIC.A", "", ""))
    registry.proofs.report(version.number, Proof(state=ProofState.PROVED))
    assert registry.proofs.of([version])[version.number].state is ProofState.UNPROVED


def test_names_are_for_the_account_alone(registry: Registry) -> None:
    version = finished(registry, "ft_1", "A")
    assert registry.proofs.names(ADMIN, {version.number, 99}) == {version.number: "LUTHIER.PUBLIC.A@1"}
    assert registry.proofs.names(Caller(account="other", user="u", role="r"), {version.number}) == {}
