"""Webhooks by HTTP, CLI and Python."""

import json
from collections.abc import Callable

from click.testing import Result
from starlette.testclient import TestClient

from luthier.platform.webhooks import NoticeType
from tests.flow.conftest import CHAT, error_of
from tests.flow.people import Join, join  # noqa: F401 - a fixture
from tests.flow.test_cli import run  # noqa: F401 - a fixture

WEBHOOKS = "/luthier/v1/webhooks"
URL = "https://93.184.215.14/hook"
"""A public address that nobody asks here."""
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 8}


def test_added_shown_tested_removed(api: TestClient, join: Join) -> None:  # noqa: F811
    added = api.post(WEBHOOKS, json={"url": URL, "types": ["balance.low"]})
    assert added.status_code == 201, added.text
    secret, id = added.json()["secret"], added.json()["id"]
    assert secret.startswith("whsec_")
    assert secret not in api.get(WEBHOOKS).text
    assert [each["url"] for each in api.get(WEBHOOKS).json()["webhooks"]] == [URL]
    assert api.post(f"{WEBHOOKS}/{id}/test").json()["type"] == "webhook.test"
    (notice,) = api.get(f"{WEBHOOKS}/notices").json()["notices"]
    assert [state["attempts"] for state in notice["deliveries"]] == [0]
    ann = join("ANALYST", "ANN")
    error_of(ann.post(WEBHOOKS, json={"url": URL}), 403, "not_authorized")
    error_of(ann.get(f"{WEBHOOKS}/notices"), 403, "not_authorized")
    assert api.delete(f"{WEBHOOKS}/{id}").status_code == 200
    error_of(api.delete(f"{WEBHOOKS}/{id}"), 404, "not_found")


def test_what_no_webhook_can_be(api: TestClient) -> None:
    for url in (
        "http://127.0.0.1:1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "ftp://a",
        "",
        "https://u:p@a/",
    ):
        error_of(api.post(WEBHOOKS, json={"url": url}), 400, "invalid_parameter_value")
    error_of(api.post(WEBHOOKS, json={"url": URL, "types": ["unheard.of"]}), 400, "invalid_parameter_value")
    assert api.get(WEBHOOKS).json() == {"webhooks": []}


def test_a_refused_completion_is_told(api: TestClient) -> None:
    api.put("/luthier/v1/credits/limit", json={})
    error_of(api.post(CHAT, json=ASK), 402, "insufficient_credits")
    leases = api.app.state.services.completions.leases  # type: ignore[attr-defined]
    api.portal.call(leases.renew_all)
    notices = api.get(f"{WEBHOOKS}/notices").json()["notices"]
    assert [each["type"] for each in notices] == [NoticeType.BALANCE_REFUSED]


def test_an_alert(api: TestClient) -> None:
    error_of(api.put("/luthier/v1/credits/alert", json={"credits": "1"}), 409, "conflict")
    api.put("/luthier/v1/credits/limit", json={})
    assert api.put("/luthier/v1/credits/alert", json={"credits": "1.5"}).json()["alert"] == "1.5"
    assert "alert" not in api.put("/luthier/v1/credits/alert", json={"credits": None}).json()
    for credits in ("-1", "lots", "1e30"):
        error_of(api.put("/luthier/v1/credits/alert", json={"credits": credits}), 400, "invalid_parameter_value")


def test_on_the_command_line(run: Callable[..., Result]) -> None:  # noqa: F811
    assert "No webhooks" in run("webhooks", "list").output
    assert "No notices" in run("webhooks", "notices").output
    added = json.loads(run("webhooks", "add", URL, "--type", "budget.passed", "--json").output)
    assert added["types"] == ["budget.passed"]
    assert URL in run("webhooks", "list").output
    assert run("webhooks", "test", added["id"]).exit_code == 0
    assert "webhook.test" in run("webhooks", "notices").output
    refused = run("webhooks", "add", "http://10.0.0.1/")
    assert (refused.exit_code, "webhook_networks" in refused.output) == (2, True)
    assert run("webhooks", "remove", added["id"]).exit_code == 0
    assert run("webhooks", "remove", added["id"]).exit_code == 3
    run("credits", "limit")
    assert "2.5" in run("credits", "alert", "2.5").output
    assert run("credits", "alert", "off").exit_code == 0
