"""The audit over HTTP, SQL, CLI and the Python client: what was changed or refused is in it, and nothing else."""

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.errors import Unavailable
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import KEY
from tests.flow.conftest import CHAT, create, error_of, sql
from tests.flow.people import Join, join  # noqa: F401 - a fixture
from tests.flow.test_direct import ASK

AUDIT = "/luthier/v1/audit"


def told(api: TestClient, **params: Any) -> list[tuple[Any, ...]]:
    """Oldest first, but for the first key of all."""
    rows = [row for row in api.get(AUDIT, params=params).json()["audit"] if row["number"] > 1]
    return [(row["action"], row["object_kind"], row["object_name"], row["is_allowed"]) for row in reversed(rows)]


def test_changes_by_http_and_sql(api: TestClient, tuned: str) -> None:
    (first,) = (job["id"] for job in api.get("/luthier/v1/jobs").json()["jobs"])
    api.get("/luthier/v1/models")
    api.post(CHAT, json=ASK)
    sql(api, "SELECT 1")
    sql(api, "ALTER MODEL tuned VERSION V1 SET ALIAS = prod")
    api.delete("/v1/models/tuned")
    job = create(api, training_data="SELECT question AS prompt, answer AS completion FROM faq", model="m").json()["id"]
    sql(api, f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CANCEL', '{job}')")
    api.delete("/luthier/v1/tables/faq")
    assert told(api) == [
        ("upload_table", "table", "faq", True),
        ("create_job", "job", first, True),
        ("sql", "statement", "ALTER MODEL tuned VERSION V1 SET ALIAS = prod", True),
        ("delete_model", "model", "tuned", True),
        ("create_job", "job", job, True),
        ("cancel_job", "job", job, True),
        ("drop_table", "table", "faq", True),
    ]
    row = api.get(AUDIT, params={"action": "drop_table"}).json()["audit"][0]
    assert (row["account"], row["user"], row["role"]) == ("main", "admin", "ACCOUNTADMIN")
    assert row["key"].startswith("key_")
    assert row["id"].startswith("req_")
    assert row["source"] == "testclient"


def test_refusals(api: TestClient, direct: ASGIApp) -> None:
    key = api.post("/luthier/v1/keys", json={"endpoints": ["completions"], "models": ["tiny"]}).json()
    narrow = {"Authorization": f"Bearer {key['key']}"}
    api.get("/luthier/v1/jobs", headers=narrow)
    TestClient(direct).post(CHAT, json={**ASK, "model": "other"}, headers=narrow)
    api.post(CHAT, json={**ASK, "model": "nobodys"})
    api.get("/luthier/v1/jobs/ft_nobodys")
    assert told(api) == [
        ("create_key", "key", key["id"], True),
        ("show_jobs", "job", "", False),
        ("complete", "model", "other", False),
        ("complete", "model", "nobodys", False),
        ("describe_job", "job", "ft_nobodys", False),
    ]
    (row,) = [row for row in api.get(AUDIT).json()["audit"] if row["object_name"] == "other"]
    assert (row["key"], row["status"]) == (key["id"], 403)
    assert "is not for model LUTHIER.PUBLIC.OTHER" in row["reason"]


def test_a_dead_key_is_in_its_accounts_audit_and_an_unknown_one_in_nobodys(
    api: TestClient,
    join: Join,  # noqa: F811
) -> None:
    key = api.post("/luthier/v1/keys", json={}).json()
    api.delete(f"/luthier/v1/keys/{key['id']}")
    for bearer in (key["key"], "lt_unknown"):
        assert api.get("/luthier/v1/jobs", headers={"Authorization": f"Bearer {bearer}"}).status_code == 401
    (dead,) = [row for row in api.get(AUDIT).json()["audit"] if not row["is_allowed"]]
    assert (dead["key"], dead["user"]) == (key["id"], "admin")
    (unknown,) = api.get(AUDIT, params={"unknown": True}).json()["audit"]
    assert (unknown["account"], unknown["key"], unknown["status"]) == ("", "", 401)
    assert "lt_unknown" not in json.dumps(unknown)
    tenant = join("ACCOUNTADMIN", account="tenant")
    for path in (AUDIT, f"{AUDIT}/verify"):
        assert tenant.get(path).status_code == 200
        assert "runs the platform" in error_of(tenant.get(path, params={"unknown": True}), 403, "not_authorized")


def test_a_change_that_cannot_be_audited_is_not_called_done(
    api: TestClient, faq: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_entries: object) -> None:
        raise Unavailable("The store is away.")

    monkeypatch.setattr(api.app.state.auditor, "_append", fail)  # type: ignore[attr-defined]
    error_of(api.delete("/luthier/v1/tables/faq"), 503, "unavailable")
    assert api.get("/luthier/v1/tables").status_code == 200


def test_pages(api: TestClient) -> None:
    for _ in range(4):
        api.post("/luthier/v1/keys", json={})
    first = api.get(AUDIT, params={"limit": 3}).json()
    second = api.get(AUDIT, params={"limit": 3, "before": first["next"]}).json()
    assert [row["number"] for row in first["audit"] + second["audit"]] == [5, 4, 3, 2, 1]
    assert second["next"] is None
    error_of(api.get(AUDIT, params={"limit": 0}), 400, "invalid_parameter_value")
    error_of(api.get(AUDIT, params={"untill": 0}), 400, "invalid_parameter_value")


def test_the_view(api: TestClient) -> None:
    api.post("/luthier/v1/keys", json={"name": "ci"})
    statement = "SELECT user_name, action, is_allowed FROM SNOWFLAKE.ACCOUNT_USAGE.LUTHIER_AUDIT_HISTORY"
    statement += " WHERE event_number > 1"
    response = api.post("/luthier/v1/sql", json={"statement": statement})
    assert response.json()["rows"] == [["admin", "create_key", True]]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "POST", "DELETE"])
def test_there_is_no_way_to_change_it(api: TestClient, method: str) -> None:
    assert api.request(method, AUDIT).status_code == 405
    assert api.request(method, f"{AUDIT}/1").status_code in (404, 405)


def test_the_cli_and_the_client(server: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, words)

    assert "Nothing was changed or refused" in run("audit", "list", "--action", "drop_table").stdout
    client = Client(server, KEY)
    for _ in range(3):
        client.keys.create()
    assert [row["number"] for row in client.audit.list(limit=2)] == [4, 3]
    assert run("audit", "list", "--action", "create_key").stdout.count("create_key") == 4
    whole = run("audit", "verify")
    assert whole.stdout.startswith("The audit is whole: 4 rows.")
    anchor = client.audit.verify()["anchor"]
    with Store(settings.store_url).transaction() as tx:
        tx.execute(sa.text("DROP TRIGGER audit_no_update"))
        tx.execute(sa.text("UPDATE audit SET user = 'nobody' WHERE number = 2"))
    broken = run("audit", "verify", "--anchor", anchor)
    assert (broken.exit_code, broken.stderr.strip()) == (
        1,
        "Error: The audit is broken at row 2: row 2, or the one before it, is not as it was written.",
    )
