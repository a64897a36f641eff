"""Fine-tuning through the native API: what is made, and every way to be refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.errors import Unavailable
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.storage import file_sha256
from tests.factories import ADMIN
from tests.fakes import Launcher
from tests.flow.conftest import create, csv_bytes, error_of, upload


def files(settings: Settings) -> list[Path]:
    """All that lies in storage beside the tables."""
    return [file for file in settings.storage.rglob("*") if file.is_file() and file.parent.name != "tables"]


def test_a_job_from_create_to_model(
    api: TestClient, faq: str, settings: Settings, train: Callable[[str], Path]
) -> None:
    response = create(api, options={"max_epochs": 2, "seed": 7})
    job = response.json()
    assert response.status_code == 201
    assert (job["status"], job["model"], job["owner"]) == ("PENDING", "LUTHIER.PUBLIC.tuned", "admin")
    assert (job["report"]["rows"], job["report"]["validation_rows"]) == (9, 1)
    assert job["report"]["trained_tokens"] == 2 * job["report"]["tokens"]
    assert job["options"]["seed"] == 7
    folder = settings.storage / "jobs" / job["id"]
    assert job["report"]["train_sha256"] == file_sha256(folder / "train.parquet")
    train(job["id"])
    done = api.get(f"/luthier/v1/jobs/{job['id']}").json()
    assert (done["status"], done["progress"], done["trained_tokens"]) == ("SUCCESS", 1.0, 60)
    assert [shown["id"] for shown in api.get("/luthier/v1/jobs").json()["jobs"]] == [job["id"]]
    events = api.get(f"/luthier/v1/jobs/{job['id']}/events").json()["events"]
    assert [event["type"] for event in events] == ["CREATED", "CHECK_PASSED", "STARTED", "COMPLETED"]


@pytest.mark.parametrize(
    ("given", "status", "code", "words"),
    [
        (
            {"training_data": "SELECT * FROM faq"},
            422,
            "invalid_training_data",
            ["no column prompt", "question, answer"],
        ),
        (
            {"training_data": "SELECT question AS prompt FROM faq"},
            422,
            "invalid_training_data",
            ["no column completion", "prompt"],
        ),
        (
            {"training_data": "SELECT question AS prompt, answer AS completion FROM faq WHERE 1 = 0"},
            422,
            "invalid_training_data",
            ["no rows"],
        ),
        ({"training_data": "DELETE FROM faq"}, 422, "sql_compilation_error", ["Only a query", "DELETE"]),
        ({"training_data": "data"}, 422, "sql_compilation_error", []),
        ({"training_data": "SELECT 1; SELECT 2"}, 422, "sql_compilation_error", ["One statement", "2"]),
        ({"training_data": "SELECT * FROM fag"}, 422, "sql_compilation_error", ["no table fag", "LUTHIER.PUBLIC.FAQ"]),
        ({"training_data": "  "}, 422, "sql_compilation_error", ["empty"]),
        ({"validation_data": "SELECT * FROM faq"}, 422, "invalid_training_data", ["no column prompt"]),
        ({"base_model": "gpt-5"}, 404, "not_found", ["Unknown base model 'gpt-5'", "gpt-oss-20b"]),
        (
            {"base_model": "smollm2-135m"},
            409,
            "base_model_not_fetched",
            ["not on this server", "luthier base-models fetch smollm2-135m"],
        ),
        ({"options": {"epochs": 3}}, 400, "invalid_parameter_value", ["Unknown option 'epochs'", "max_epochs"]),
        ({"options": {"max_epochs": 0}}, 400, "invalid_parameter_value", ["max_epochs = 0", "equal to 1"]),
        ({"options": {"max_epochs": 11}}, 400, "invalid_parameter_value", ["max_epochs = 11", "equal to 10"]),
        ({"options": {"lora_rank": 17}}, 400, "invalid_parameter_value", ["lora_rank = 17", "up to 16"]),
        ({"options": [3]}, 400, "invalid_parameter_value", ["options"]),
        ({"model": "my-model"}, 400, "invalid_parameter_value", ["my-model", "'-'", "double quotes"]),
        ({"model": "a.b.c.d"}, 400, "invalid_parameter_value", ["4 parts"]),
        ({"model": ""}, 400, "invalid_parameter_value", ["empty"]),
        ({"model": 3}, 400, "invalid_parameter_value", ["model", "string"]),
        ({"epochs": 3}, 400, "invalid_parameter_value", ["epochs"]),
    ],
)
def test_a_create_that_is_refused_leaves_nothing(
    api: TestClient, faq: str, settings: Settings, given: dict[str, Any], status: int, code: str, words: list[str]
) -> None:
    for dry_run in (False, True):
        message = error_of(create(api, dry_run=dry_run, **given), status, code)
        assert all(word in message for word in words), message
    assert api.get("/luthier/v1/jobs").json() == {"jobs": []}
    assert files(settings) == []


def test_faulty_rows_are_refused_and_a_dry_run_lists_them(api: TestClient, faq: str, settings: Settings) -> None:
    query = "SELECT question AS prompt, NULLIF(answer, 'answer 3') AS completion FROM faq"
    message = error_of(create(api, training_data=query), 422, "invalid_training_data")
    assert message.startswith("1 of 10 training rows: completion is NULL (row 4).")
    assert "WHERE" in message
    response = create(api, dry_run=True, training_data=query)
    assert response.status_code == 200
    fault = {"what": "completion is NULL", "count": 1, "rows": [4], "of": "training"}
    assert response.json()["faults"] == [fault]
    assert api.get("/luthier/v1/jobs").json() == {"jobs": []}
    assert files(settings) == []


def test_too_many_rows(api: TestClient) -> None:
    upload(api, "long", csv_bytes([("a", "b")] * 34, ("prompt", "completion")))
    message = error_of(create(api, training_data="SELECT * FROM long"), 422, "invalid_training_data")
    assert "34 rows are too many: tiny takes 100 rows / 3 epochs = 33" in message
    assert create(api, training_data="SELECT * FROM long", options={"max_epochs": 2}).status_code == 201


def test_a_dry_run_starts_nothing_and_keeps_nothing(
    api: TestClient, faq: str, settings: Settings, registry: Registry, launcher: Launcher
) -> None:
    response = create(api, dry_run=True, options={"max_epochs": 1})
    report = response.json()
    assert response.status_code == 200
    assert (report["rows"], report["validation_rows"], report["duration"], report["epochs"]) == (9, 1, "1ep", 1)
    registry.jobs.tick()
    assert launcher.alive == set()
    assert registry.jobs.show(ADMIN) == []
    assert files(settings) == []
    job = create(api, options={"max_epochs": 1}).json()
    assert {name: job["report"][name] for name in report} == report


def test_names_are_taken_by_jobs_and_by_models(
    api: TestClient, faq: str, settings: Settings, train: Callable[[str], Path]
) -> None:
    job = create(api).json()
    before = files(settings)
    assert f"Job {job['id']} is making a model" in error_of(create(api, model="TUNED"), 409, "conflict")
    train(job["id"])
    message = error_of(create(api, model='"TUNED"'), 409, "conflict")
    assert "is there already" in message
    assert "luthier models drop" in message
    assert [file for file in files(settings) if file.parent.parent.name == "jobs"] == before


def test_an_idempotency_key(api: TestClient, faq: str, settings: Settings) -> None:
    first = create(api, key="k").json()
    before = files(settings)
    assert create(api, key="k").json() == first
    assert "'k' was used for another request" in error_of(create(api, key="k", model="other"), 409, "conflict")
    assert files(settings) == before
    assert len(api.get("/luthier/v1/jobs").json()["jobs"]) == 1
    assert "Idempotency-Key" in error_of(create(api, key="k" * 256), 400, "invalid_parameter_value")


def test_data_stays_when_the_registry_may_have_taken_the_job(
    api: TestClient, faq: str, settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("The registry does not answer (submit).")

    monkeypatch.setattr(registry.jobs, "submit", away)
    response = create(api)
    error_of(response, 503, "unavailable")
    assert response.headers["retry-after"] == "2"
    assert {file.name for file in files(settings)} == {"train.parquet", "validation.parquet"}


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/events"), ("POST", "/cancel")])
def test_an_unknown_job(api: TestClient, method: str, path: str) -> None:
    message = error_of(api.request(method, f"/luthier/v1/jobs/ft_none{path}"), 404, "not_found")
    assert "'ft_none'" in message
    assert "luthier finetune show" in message


def test_cancel(api: TestClient, faq: str, train: Callable[[str], Path]) -> None:
    job = create(api).json()
    cancelled = api.post(f"/luthier/v1/jobs/{job['id']}/cancel").json()
    assert cancelled["status"] == "CANCELLED"
    assert api.post(f"/luthier/v1/jobs/{job['id']}/cancel").json() == cancelled
    again = create(api).json()
    train(again["id"])
    message = error_of(api.post(f"/luthier/v1/jobs/{again['id']}/cancel"), 409, "conflict")
    assert f"{again['id']} is SUCCESS" in message


def test_given_validation_data(api: TestClient, faq: str) -> None:
    query = "SELECT question AS prompt, answer AS completion FROM faq WHERE answer = 'answer 1'"
    job = create(api, validation_data=query).json()
    assert job["validation_data"] == query
    assert (job["report"]["rows"], job["report"]["validation_rows"]) == (10, 1)
    assert job["report"]["validation_split"] is False
