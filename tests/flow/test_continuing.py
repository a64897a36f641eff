"""What a run may begin with: CREATE takes a model or a stopped job whose adapter is the one that is asked for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.errors import Conflict
from luthier.platform.jobs import JobError
from luthier.platform.metering import UsageKind
from luthier.platform.prices import to_ucr
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.weights.lora import Modules
from tests.factories import ADMIN, ledger_of, make_progress
from tests.flow.conftest import create, error_of

SAME = {"lora_rank": 8, "continue_from": "tuned"}


@pytest.fixture
def rank_8(
    api: TestClient, faq: str, train: Callable[[str], Path], foreign_adapter: Path
) -> Callable[[str], dict[str, Any]]:
    """Makes a model of rank 8 and alpha 16 on all linear modules."""

    def make(model: str) -> dict[str, Any]:
        job: dict[str, Any] = create(api, model=model, options={"lora_rank": 8}).json()
        shutil.copytree(foreign_adapter, train(job["id"]), dirs_exist_ok=True)
        return job

    return make


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_rank": 16}, ["lora_rank = 16", "has rank 8", "Give lora_rank = 8"]),
        ({"lora_alpha": 8}, ["lora_alpha = 8", "is scaled by 16 / 8", "Give lora_alpha = 16"]),
        ({"lora_targets": ["q_proj"]}, ['lora_targets = ["q_proj"]', 'Give lora_targets = ["down_proj", "gate_proj",']),
        ({"lora_targets": ["q_prj"]}, ["Do you mean q_proj?"]),
        ({"method": "full", "lora_rank": None}, ["that is lora on tiny", "this job is full"]),
    ],
    ids=str,
)
def test_another_adapter_than_the_models_is_refused(
    api: TestClient, rank_8: Callable[[str], Any], settings: Settings, options: dict[str, Any], words: list[str]
) -> None:
    rank_8("tuned")
    assert create(api, dry_run=True, model="next", options=SAME).status_code == 200
    frozen = len(list((settings.storage / "jobs").iterdir()))
    for dry_run in (False, True):
        response = create(api, dry_run=dry_run, model="next", options={**SAME, **options})
        message = error_of(response, 400, "invalid_parameter_value")
        assert all(word in message for word in words), message
    assert len(list((settings.storage / "jobs").iterdir())) == frozen


def test_a_first_answer_needs_no_weights(api: TestClient, faq: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(base_dir: Path) -> Modules:
        raise Conflict(f"{base_dir} is damaged.")

    first = create(api, key="k").json()
    monkeypatch.setattr("luthier.platform.finetune.linear_modules", damaged)
    assert create(api, key="k").json()["id"] == first["id"]
    assert "is damaged" in error_of(create(api, model="other"), 409, "conflict")


def test_an_adapter_that_is_lost(api: TestClient, rank_8: Callable[[str], Any], settings: Settings) -> None:
    rank_8("tuned")
    for folder in (settings.storage / "adapters").iterdir():
        (folder / "adapter_config.json").unlink()
    message = error_of(create(api, model="next", options=SAME), 404, "not_found")
    assert message == "Option continue_from = 'tuned': Its adapter_config.json is missing in storage."


def test_a_model_may_be_named_like_a_job(api: TestClient, rank_8: Callable[[str], Any]) -> None:
    rank_8("ft_one")
    asked = {"model": "next", "options": {**SAME, "continue_from": "ft_one"}}
    assert create(api, dry_run=True, **asked).status_code == 200


def test_continuing_from_a_job(
    api: TestClient, faq: str, registry: Registry, settings: Settings, foreign_adapter: Path
) -> None:
    job_id = create(api, options={"lora_rank": 8}).json()["id"]
    asked: dict[str, Any] = {"model": "next", "options": {"lora_rank": 8, "continue_from": job_id}}
    assert "still runs" in error_of(create(api, **asked), 409, "conflict")
    registry.jobs.tick()
    api.post(f"/luthier/v1/jobs/{job_id}/cancel")
    assert "left no checkpoint" in error_of(create(api, **asked), 404, "not_found")
    shutil.copytree(foreign_adapter, settings.storage / "runs" / job_id / "step-000002" / "model")
    other = {**asked, "options": {**asked["options"], "lora_alpha": 9}}
    assert "Give lora_alpha = 16" in error_of(create(api, **other), 400, "invalid_parameter_value")
    assert create(api, **asked).status_code == 201


def test_what_our_fault_made_free_is_paid_by_who_goes_on_from_it(
    api: TestClient, faq: str, registry: Registry, settings: Settings, foreign_adapter: Path
) -> None:
    job_id = create(api, options={"lora_rank": 8}).json()["id"]
    registry.jobs.tick()
    registry.jobs.report(job_id, make_progress(trained_tokens=10, evaluated_tokens=3))
    registry.jobs.fail(job_id, JobError(code="RUN_LOST", message="lost"), billable=False)
    shutil.copytree(foreign_adapter, settings.storage / "runs" / job_id / "step-000002" / "model")
    asked: dict[str, Any] = {"options": {"lora_rank": 8, "continue_from": job_id}}
    price = create(api, dry_run=True, model="next", **asked).json()["credits"]
    assert ledger_of(registry, UsageKind.TRAINING) == []
    registry.credits.top_up(ADMIN, ADMIN.account, to_ucr(price), "k")
    error_of(create(api, model="next", **asked), 402, "insufficient_credits")
    assert (ledger_of(registry, UsageKind.TRAINING), registry.jobs.run(job_id).trained_tokens) == ([], 0)
    registry.credits.top_up(ADMIN, ADMIN.account, to_ucr(price) + 1, "k2")
    for model in ("next", "other"):
        assert create(api, model=model, **asked).status_code == 201
        (bill,) = ledger_of(registry, UsageKind.TRAINING)
        assert (bill.source_id, bill.amount_ucr) == (job_id, 1)
        assert (bill.trained_tokens, bill.evaluated_tokens) == (10, 3)
    assert registry.credits.balance(ADMIN).available_ucr == 0
    checks = api.get("/luthier/v1/ledger/reconcile").json()["checks"]
    assert [each for each in checks if each["difference"]] == []
