"""Credits through every door: given, seen, held, and refused when they are spent."""

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from starlette.testclient import TestClient

from tests.flow.conftest import create, error_of
from tests.flow.people import Join, join, run_all  # noqa: F401 - a fixture
from tests.flow.test_cli import run  # noqa: F401 - a fixture

CREDITS = "/luthier/v1/credits"


def top_up(api: TestClient, credits: str, key: str = "k1", **given: str) -> dict[str, str]:
    response = api.post(f"{CREDITS}/topups", json={"credits": credits, **given}, headers={"Idempotency-Key": key})
    assert response.status_code == 201, response.text
    told: dict[str, str] = response.json()
    return told


def test_an_account_is_told_what_it_has(api: TestClient) -> None:
    assert api.get(CREDITS).json() == {"account": "main", "is_limited": False}
    assert top_up(api, "2.5", note="first")["credits"] == "2.5"
    assert top_up(api, "2.5", note="first")["by"] == "main.admin"
    assert api.get(CREDITS).json() == {
        "account": "main",
        "is_limited": True,
        "available": "2.5",
        "granted": "2.5",
        "spent": "0",
        "held": "0",
        "leased": "0",
        "overrun": "0",
    }
    assert [each["note"] for each in api.get(f"{CREDITS}/topups").json()["topups"]] == ["first"]


def test_the_balance_is_for_who_may_see_what_others_use(api: TestClient, join: Join) -> None:  # noqa: F811
    top_up(api, "2.5", note="a secret")
    ann = join("ANALYST")
    for path in (CREDITS, f"{CREDITS}/topups"):
        told = error_of(ann.get(path), 403, "not_authorized")
        assert "MONITOR USAGE ON ACCOUNT is needed to see the account's credits" in told
    run_all(api, "GRANT MONITOR USAGE ON ACCOUNT TO ROLE analyst")
    assert ann.get(CREDITS).json()["granted"] == "2.5"
    assert ann.get(f"{CREDITS}/topups").json()["topups"][0]["note"] == "a secret"
    others = ann.get(CREDITS, params={"account": "tenant"})
    assert "runs the platform" in error_of(others, 403, "not_authorized"), "that is told before it is looked for"


def test_what_no_top_up_can_be(api: TestClient) -> None:
    for credits in ("0", "-1", "1.0000001", "lots", "NaN", "1e30"):
        response = api.post(f"{CREDITS}/topups", json={"credits": credits}, headers={"Idempotency-Key": "k"})
        error_of(response, 400, "invalid_parameter_value")
    without = api.post(f"{CREDITS}/topups", json={"credits": "1"})
    assert "Idempotency-Key" in error_of(without, 400, "invalid_parameter_value")
    top_up(api, "1")
    again = api.post(f"{CREDITS}/topups", json={"credits": "2"}, headers={"Idempotency-Key": "k1"})
    error_of(again, 409, "conflict")
    nobody = api.post(f"{CREDITS}/topups", json={"credits": "1", "account": "x"}, headers={"Idempotency-Key": "k"})
    error_of(nobody, 404, "not_found")


def test_a_job_holds_its_price_or_is_refused(api: TestClient, faq: str, train: Callable[[str], Path]) -> None:
    price = create(api, dry_run=True).json()
    api.put(f"{CREDITS}/limit", json={})
    assert "available" in error_of(create(api), 402, "insufficient_credits")
    assert api.get("/luthier/v1/jobs").json() == {"jobs": []}
    top_up(api, "1")
    job = create(api).json()
    assert api.get(CREDITS).json()["held"] == price["credits"]
    train(job["id"])
    balance = api.get(CREDITS).json()
    assert (balance["held"], balance["spent"], balance["available"]) == ("0", "0.000006", "0.999994")


def test_credits_on_the_command_line(run: Callable[..., Result]) -> None:  # noqa: F811
    assert "has no limit" in run("credits", "show").output
    assert "No top-ups yet" in run("credits", "topups").output
    assert run("credits", "topup", "12.5", "--note", "hello", "--key", "a").output == (
        "Account main: 12.5 credits added, 12.5 available.\n"
    )
    assert "12.5 available" in run("credits", "topup", "12.5", "--note", "hello", "--key", "a").output
    assert json.loads(run("credits", "show", "--json").output)["granted"] == "12.5"
    assert "hello" in run("credits", "topups").output
    refused = run("credits", "topup", "none")
    assert refused.exit_code == 2
    assert refused.output.startswith("Error: ")
    assert "12.5" in run("credits", "limit").output
