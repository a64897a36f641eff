"""Budgets of roles, users and keys within an account's balance: hard ones refuse, soft ones tell."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result
from starlette.testclient import TestClient

from tests.flow.conftest import CHAT, SELECT, create, error_of
from tests.flow.people import Join, join, key_of  # noqa: F401 - a fixture
from tests.flow.test_cli import run  # noqa: F401 - a fixture

BUDGETS = "/luthier/v1/credits/budgets"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 8}


def put(api: TestClient, owner: str, credits: str, **how: object) -> dict[str, object]:
    response = api.put(f"{BUDGETS}/{owner}", json={"credits": credits, **how})
    assert response.status_code == 200, response.text
    told: dict[str, object] = response.json()
    return told


@pytest.mark.parametrize("kind", ["role", "user", "key"])
def test_a_hard_budget_refuses_its_owner_alone(api: TestClient, join: Join, kind: str) -> None:  # noqa: F811
    ann, bob = join("ANALYST", "ANN"), join("WRITER", "BOB")
    owner = {"role": "role/analyst", "user": "user/ann", "key": f"key/{key_of(ann)}"}[kind]
    assert put(api, owner, "0")["granted"] == "0"
    refused = error_of(ann.post(CHAT, json=ASK), 402, "insufficient_credits")
    assert f"The budget of {kind} " in refused
    assert "luthier credits budgets set" in refused
    assert bob.post(CHAT, json=ASK).status_code == 200
    put(api, owner, "1")
    (budget,) = api.get(BUDGETS).json()["budgets"]
    assert (budget["granted"], budget["spent"]) == ("1", "0")


def test_a_soft_budget_tells_and_refuses_nothing(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST", "ANN")
    put(api, "role/analyst", "0", is_hard=False)
    assert ann.post(CHAT, json=ASK).status_code == 200
    (budget,) = api.get(BUDGETS).json()["budgets"]
    assert budget["spent"] != "0"
    assert budget["passed_on"] is not None


def test_a_job_that_costs_more_than_its_budget_is_refused_at_every_door(
    api: TestClient,
    faq: str,
    run: Callable[..., Result],  # noqa: F811
) -> None:
    price = create(api, dry_run=True).json()["credits"]
    told = f"budget (option budget_credits) is 0.000001 credits, and this would cost {price}"
    poor = {"budget_credits": "0.000001"}
    assert told in error_of(create(api, options=poor), 402, "insufficient_credits")
    words = ", ".join(f"'{word}'" for word in ("CREATE", "tuned", "tiny", SELECT, "", json.dumps(poor)))
    statement = f"SELECT SNOWFLAKE.CORTEX.FINETUNE({words})"
    refused = api.post("/luthier/v1/sql", json={"statement": statement})
    assert told in error_of(refused, 402, "insufficient_credits")
    given = ("tuned", "--base-model", "tiny", "--training-data", SELECT, "--budget-credits", "0.000001")
    result = run("finetune", "create", *given)
    assert (result.exit_code, told in result.stderr) == (4, True)
    dry = create(api, options=poor, dry_run=True).json()
    assert (dry["credits"], any("CREATE refuses this" in warning for warning in dry["warnings"])) == (price, True)
    assert api.get("/luthier/v1/jobs").json()["jobs"] == []
    assert create(api, options={"budget_credits": price}).status_code == 201


def test_a_job_that_its_budget_shortens_says_so(api: TestClient, faq: str) -> None:
    price = create(api, dry_run=True).json()["credits"]
    options = {"budget_credits": f"{float(price) / 2:.6f}", "on_budget": "shorten", "batch_size": 1}
    job = create(api, options=options).json()
    assert (float(job["report"]["credits"]) < float(price), job["report"]["is_shortened"]) == (True, True)
    events = api.get(f"/luthier/v1/jobs/{job['id']}/events").json()["events"]
    (words,) = [event["message"] for event in events if event["type"] == "SHORTENED"]
    assert f"after {job['report']['trained_tokens']:,} trained tokens" in words
    (notice,) = api.get("/luthier/v1/webhooks/notices").json()["notices"]
    assert (notice["type"], notice["data"]["name"]) == ("budget.shortened", job["id"])


def test_what_no_budget_can_be(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST", "ANN")
    for owner in ("role/nobody", "user/nobody", "key/key_0"):
        error_of(api.put(f"{BUDGETS}/{owner}", json={"credits": "1"}), 404, "not_found")
    for credits in ("-1", "1.0000001", "NaN", "1e30"):
        error_of(api.put(f"{BUDGETS}/role/analyst", json={"credits": credits}), 400, "invalid_parameter_value")
    error_of(api.delete(f"{BUDGETS}/role/analyst"), 404, "not_found")
    error_of(ann.put(f"{BUDGETS}/role/analyst", json={"credits": "1"}), 403, "not_authorized")
    error_of(ann.get(BUDGETS), 403, "not_authorized")


def test_budgets_on_the_command_line(run: Callable[..., Result]) -> None:  # noqa: F811
    assert "No budgets" in run("credits", "budgets", "list").output
    told = json.loads(run("credits", "budgets", "set", "user", "admin", "2.5", "--period", "day", "--json").output)
    assert (told["name"], told["granted"], told["period"], told["is_hard"]) == ("admin", "2.5", "day", True)
    assert "2.5" in run("credits", "budgets", "list").output
    assert run("credits", "budgets", "drop", "user", "admin").exit_code == 0
    assert run("credits", "budgets", "drop", "user", "admin").exit_code == 3
