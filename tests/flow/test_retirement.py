"""A base model's end: what stands on it says so at every door, new jobs are refused, and a model is trained again."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.platform.models import ImportedModel
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage, file_sha256
from luthier.platform.tasks import TaskType
from luthier.platform.versions import parse_model
from luthier.platform.weights.artifacts import MANIFEST
from luthier.serve.api import build_api
from luthier.serve.services import make_services
from tests.factories import ADMIN, BASE_MODEL, KEY, make_settings
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import create, error_of
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture
from tests.flow.test_access import ask, ask_body, sql_error
from tests.flow.test_cli import as_json, good, refused

YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
ENDED = f'\n[retired]\nafter = {YESTERDAY}\nreplacement = "newer"\n'
GONE = (
    f"Model LUTHIER.PUBLIC.tuned answers no more: its base model tiny was retired after {YESTERDAY}. "
    "`luthier models retune LUTHIER.PUBLIC.tuned --base-model newer` trains it again, from the same data."
)
OPTIONS = {"max_epochs": 2, "lora_rank": 16, "lora_alpha": 24, "seed": 7, "learning_rate": 0.001}


@pytest.fixture
def settings(home: Path, tiny_model: Path) -> Settings:
    """With a second base model, `newer`, of smaller adapters; both are served."""
    settings = make_settings(home, tiny_model)
    newer = BASE_MODEL.format(path=tiny_model).replace('"tiny"', '"newer"').replace("max_rank = 16", "max_rank = 8")
    (home / "base_models" / "newer.toml").write_text(newer.replace("tests/tiny", "tests/newer"))
    return settings.model_copy(update={"serve_base_models": ("tiny", "newer")})


@pytest.fixture
def job(api: TestClient, faq: str, train: Callable[[str], Path]) -> str:
    """That made LUTHIER.PUBLIC.tuned."""
    made = create(api, options=OPTIONS)
    assert made.status_code == 201, made.text
    train(made.json()["id"])
    return str(made.json()["id"])


@pytest.fixture
def today(job: str, settings: Settings, registry: Registry, api: TestClient) -> TestClient:
    """The server as it starts after the end of `tiny`."""
    file = settings.home / "base_models" / "tiny.toml"
    file.write_text(file.read_text() + ENDED)
    app = build_api(make_services(settings, registry, LocalCompletions(settings, registry, EchoEngine())))
    client = TestClient(app, headers={"Authorization": f"Bearer {KEY}"})
    client.portal = api.portal
    return client


def test_every_door_says_that_it_is_over_and_what_to_do(today: TestClient) -> None:
    assert error_of(ask(today), 410, "base_model_retired") == GONE
    assert error_of(today.post("/v1/completions", json={"model": "tuned@1", "prompt": "a"}), 410, "base_model_retired")
    cortex = "/api/v2/cortex"
    for path in (f"{cortex}/v1/chat/completions", f"{cortex}/inference:complete"):
        answer = today.post(path, json=ask_body("tuned"))
        assert (answer.status_code, GONE in answer.text) == (410, True)
    for function in ("SNOWFLAKE.CORTEX.COMPLETE", "AI_COMPLETE"):
        assert GONE in sql_error(today, f"SELECT {function}('tuned', 'a')", 410, "base_model_retired")
    told = error_of(ask(today, "tiny"), 410, "base_model_retired")
    assert told == f"Base model tiny was retired after {YESTERDAY}. Use newer instead."


def test_new_jobs_are_refused_with_what_is_left(today: TestClient) -> None:
    told = error_of(create(today, model="another"), 410, "base_model_retired")
    assert told.endswith("Use newer instead. Left to tune here: newer.")
    error_of(create(today, model="another", dry_run=True), 410, "base_model_retired")


def test_lists_and_descriptions_show_it(today: TestClient, api: TestClient) -> None:
    path = "/luthier/v1/models"
    for row in (today.get(path).json()["models"][0], today.get(f"{path}/tuned").json()):
        assert (row["is_retired"], row["warning"]) == (True, GONE)
    assert today.get(f"{path}/tuned/versions").json()["versions"][0]["is_retired"]
    assert [row["comment"] for row in rows(today, "SHOW MODELS")] == [GONE]
    assert api.get(f"{path}/tuned").json()["warning"] is None


def test_it_is_trained_again_from_the_same_data(
    today: TestClient, job: str, registry: Registry, settings: Settings, train: Callable[[str], Path]
) -> None:
    run_all(today, "SELECT 1")
    today.delete("/luthier/v1/tables/faq")
    body = {"model": "tuned", "base_model": "newer", "promote": True}
    report = today.post("/luthier/v1/jobs/retune", json=body, params={"dry_run": True}).json()
    assert (report["rows"] + report["validation_rows"], report["faults"]) == (10, [])
    made = today.post("/luthier/v1/jobs/retune", json=body, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201, made.text
    again = today.post("/luthier/v1/jobs/retune", json=body, headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == made.json()["id"]
    old, new = registry.jobs.run(job), registry.jobs.run(made.json()["id"])
    assert (new.model, new.base_model, new.training_data) == (old.model, "newer", f"frozen data of {job}")
    for part in ("train", "validation"):
        assert new.report[f"{part}_sha256"] == old.report[f"{part}_sha256"]
        file = Storage(settings.storage).job_dir(new.id) / f"{part}.parquet"
        assert file_sha256(file) == old.report[f"{part}_sha256"]
    changed = {"lora_rank": 8, "lora_alpha": 12, "new_version": True, "promote": True}
    assert new.options == old.options.model_copy(update=changed)
    assert new.report["trained_tokens"] == old.report["trained_tokens"]
    train(new.id)
    model = today.get("/luthier/v1/models/tuned").json()
    assert (model["version"], model["base_model"], model["is_retired"]) == (2, "newer", False)
    assert ask(today).status_code == 200
    assert error_of(ask(today, "tuned@1"), 410, "base_model_retired")


def test_its_budget_makes_it_shorter_where_the_base_costs_more(today: TestClient, job: str, registry: Registry) -> None:
    version, done = registry.models.get(ADMIN, *_name("tuned")), registry.jobs.run(job)
    half = f"{float(done.report['credits']) / 2:.6f}"
    options = {**done.options.model_dump(mode="json"), "budget_credits": half, "batch_size": 1}
    (Path(version.path) / MANIFEST).write_text(json.dumps({"options": options, "data": dict(done.report)}))
    registry.retention._kept_ms, registry.retention._clock = 1, lambda: 2**60
    assert registry.retention.forget() == 1
    made = today.post("/luthier/v1/jobs/retune", json={"model": "tuned", "base_model": "newer"})
    assert made.status_code == 201, made.text
    assert made.json()["report"]["is_shortened"]


def test_a_smaller_context_takes_what_fits(today: TestClient, job: str, registry: Registry) -> None:
    """By the manifest: the job is kept no more. Damaged data is told."""
    version = registry.models.get(ADMIN, *_name("tuned"))
    done = registry.jobs.run(job)
    manifest = {"options": done.options.model_dump(mode="json"), "data": dict(done.report)}
    (Path(version.path) / MANIFEST).write_text(json.dumps(manifest))
    registry.retention._kept_ms, registry.retention._clock = 1, lambda: 2**60
    assert registry.retention.forget() == 1
    body = {"model": "tuned", "base_model": "newer"}
    assert today.post("/luthier/v1/jobs/retune", json=body, params={"dry_run": True}).status_code == 200
    file = Storage(registry.retention._storage.root).job_dir(job) / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert "damaged in storage" in error_of(today.post("/luthier/v1/jobs/retune", json=body), 409, "conflict")
    file.unlink()
    assert "is not in storage here" in error_of(today.post("/luthier/v1/jobs/retune", json=body), 404, "not_found")


def test_who_may_train_it_again(
    api: TestClient,
    job: str,
    join: Join,  # noqa: F811
) -> None:
    ann = join("ANALYST")
    body = {"model": "tuned", "base_model": "newer"}
    open_to = ("USAGE ON DATABASE luthier", "USAGE ON SCHEMA public", "READ ON MODEL tuned")
    error_of(ann.post("/luthier/v1/jobs/retune", json=body), 404, "model_not_found")
    run_all(api, *(f"GRANT {each} TO ROLE analyst" for each in open_to))
    told = error_of(ann.post("/luthier/v1/jobs/retune", json=body), 403, "not_authorized")
    assert told.startswith("OWNERSHIP ON MODEL")
    run_all(api, "GRANT OWNERSHIP ON MODEL tuned TO ROLE analyst")
    told = error_of(ann.post("/luthier/v1/jobs/retune", json=body), 403, "not_authorized")
    assert told.startswith("CREATE MODEL ON SCHEMA")
    run_all(api, told.split("`")[1])
    assert ann.post("/luthier/v1/jobs/retune", json=body).status_code == 201


def test_an_import_has_nothing_to_be_trained_from(api: TestClient, registry: Registry, settings: Settings) -> None:
    made = ImportedModel(
        base_model="tiny", path="x", sha256="ab", rank=8, task_type=TaskType.CHAT_COMPLETION, created_on=1
    )
    registry.models.import_model(ADMIN, _name("own")[0], made)
    body = {"model": "own", "base_model": "newer"}
    told = error_of(api.post("/luthier/v1/jobs/retune", json=body), 400, "invalid_parameter_value")
    assert "was imported" in told


def test_by_the_command_line(job: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, ["models", "retune", *words])

    assert "credits" in good(run("tuned", "--base-model", "newer", "--dry-run"))
    assert as_json(run("tuned", "--base-model", "newer", "--dry-run", "--json"))["faults"] == []
    assert Client(server, KEY).finetune.dry_retune("tuned", "newer")["faults"] == []
    made = as_json(run("tuned", "--base-model", "newer", "--json"))
    assert (made["status"], made["base_model"]) == ("PENDING", "newer")
    assert good(run("tuned", "--base-model", "newer")).startswith("ft_")
    assert "Unknown base model" in refused(run("tuned", "--base-model", "nothing"), 3)


def _name(model: str) -> Any:
    return parse_model(model, "LUTHIER", "PUBLIC")
