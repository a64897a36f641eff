"""Keys over HTTP, CLI and the Python client: made, kept to their scope at every door, rotated, revoked."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.errors import NotAllowed
from luthier.platform.access import hash_key
from luthier.platform.jobs import now_ms
from luthier.platform.registry.registry import Registry
from luthier.serve.doors import deps
from luthier.serve.doors.deps import FRESH_SECONDS
from tests.factories import KEY, ledger_of
from tests.flow.batches import chat_line, create_batch, ended
from tests.flow.conftest import CHAT, error_of
from tests.flow.people import Join, join, key_of  # noqa: F401 - a fixture
from tests.flow.test_direct import ASK

KEYS = "/luthier/v1/keys"


@pytest.fixture(params=["gateway", "direct"])
def door(request: pytest.FixtureRequest, app: FastAPI, direct: ASGIApp) -> ASGIApp:
    return app if request.param == "gateway" else direct


@pytest.fixture
def cli(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    return _run


def _run(*words: str) -> Result:
    return CliRunner().invoke(main, words, standalone_mode=True)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """More than a second passes at the doors."""
    return lambda: monkeypatch.setattr(deps, "now_ms", lambda: now_ms() + 1_100)


def made(api: TestClient, **given: Any) -> dict[str, Any]:
    response = api.post(KEYS, json=given)
    assert response.status_code == 201, response.text
    key: dict[str, Any] = response.json()
    return key


def bearer(key: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['key']}"}


def test_a_limited_key_makes_no_key_without_its_limits(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    own = key_of(ann)
    limit = {"key": own, "requests": 5}
    assert api.put("/luthier/v1/limits", json=limit).status_code == 200
    for refused in (ann.post(KEYS, json={}), ann.post(f"{KEYS}/{own}/rotate", json={})):
        assert "has a budget or a rate limit" in error_of(refused, 403, "not_authorized")
    assert api.post(f"{KEYS}/{own}/rotate", json={}).status_code == 201


def test_a_budget_is_no_easier_shed(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    own = key_of(ann)
    budget = {"credits": "5", "period": "none", "is_hard": True}
    assert api.put(f"/luthier/v1/credits/budgets/key/{own}", json=budget).status_code == 200
    assert ann.post(KEYS, json={}).status_code == 403
    assert api.delete(f"/luthier/v1/credits/budgets/key/{own}").status_code == 200
    assert ann.post(KEYS, json={}).status_code == 201


def test_made_shown_once_listed_revoked(api: TestClient) -> None:
    key = made(api, name="ci", endpoints=["completions"], expires_in_s=3600)
    assert key["prefix"] == key["key"][:7]
    assert key["scope"] == {"endpoints": ["completions"], "models": None, "read_only": False}
    listed = api.get(KEYS)
    assert key["key"] not in listed.text
    assert hash_key(key["key"]) not in listed.text
    assert {row["name"] for row in listed.json()["keys"]} == {"ci", "first"}
    assert api.post(CHAT, json=ASK, headers=bearer(key)).status_code == 200
    assert api.delete(f"{KEYS}/{key['id']}").json()["revoked_on"] is not None
    assert error_of(api.delete(f"{KEYS}/key_none"), 404, "not_found").startswith("No key 'key_none'")


def test_usage_names_the_key(api: TestClient, registry: Registry) -> None:
    key = made(api, name="ci")
    assert api.post(CHAT, json=ASK, headers=bearer(key)).status_code == 200
    (record,) = ledger_of(registry)
    assert record.key == key["id"]
    (row,) = api.get("/luthier/v1/usage/completions", params={"group_by": "key"}).json()["usage"]
    assert (row["key"], row["records"]) == (key["id"], 1)


def test_endpoints(api: TestClient, door: ASGIApp) -> None:
    key = made(api, endpoints=["usage"])
    response = TestClient(door).post(CHAT, json=ASK, headers=bearer(key))
    told = error_of(response, 403, "not_authorized")
    assert told.startswith(f"Key {key['id']} is not for completions. Its scope is: endpoints usage.")


def test_models(api: TestClient, door: ASGIApp) -> None:
    other = made(api, models=["my_model"])
    told = error_of(TestClient(door).post(CHAT, json=ASK, headers=bearer(other)), 403, "not_authorized")
    assert "is not for model tiny. Its scope is: models LUTHIER.PUBLIC.MY_MODEL." in told
    own = made(api, models=["tiny"])
    assert TestClient(door).post(CHAT, json=ASK, headers=bearer(own)).status_code == 200


def test_a_tuned_model_by_any_of_its_names(api: TestClient, tuned: str) -> None:
    key = made(api, models=["tuned"])
    for name in ("tuned", "PUBLIC.tuned", 'LUTHIER."PUBLIC".TUNED', "tuned@1"):
        assert api.post(CHAT, json={**ASK, "model": name}, headers=bearer(key)).status_code == 200, name
        assert api.get(f"/luthier/v1/models/{name}", headers=bearer(key)).status_code == 200
        assert api.get(f"/v1/models/{name}", headers=bearer(key)).status_code == 200
    one = made(api, models=["tuned@2"])
    for name in ("tuned", "tuned@1"):
        assert api.post(CHAT, json={**ASK, "model": name}, headers=bearer(one)).status_code == 403, name
        assert api.get(f"/luthier/v1/models/{name}", headers=bearer(one)).status_code == 403


READ_ONLY_REFUSED = [
    ("POST", "/luthier/v1/jobs", {"json": {"model": "m", "base_model": "tiny", "training_data": "SELECT 1"}}),
    ("POST", "/luthier/v1/jobs/ft_1/cancel", {}),
    ("POST", "/luthier/v1/tables", {"params": {"name": "t", "filename": "t.csv"}, "content": b"a\n1\n"}),
    ("DELETE", "/luthier/v1/models/m", {}),
    ("DELETE", "/v1/models/m", {}),
    ("POST", "/v1/files", {}),
    ("POST", "/v1/batches", {}),
    ("POST", KEYS, {"json": {}}),
    ("POST", "/luthier/v1/sql", {"json": {"statement": "DROP MODEL m"}}),
    ("POST", "/luthier/v1/sql", {"json": {"statement": "SELECT SNOWFLAKE.CORTEX.FINETUNE('CANCEL', 'ft_1')"}}),
    ("POST", "/luthier/v1/sql", {"json": {"statement": "SELECT SNOWFLAKE.CORTEX.FINETUNE('CAN' || 'CEL', 'ft_1')"}}),
]


@pytest.mark.parametrize(("method", "path", "given"), READ_ONLY_REFUSED, ids=lambda value: str(value)[:40])
def test_read_only(api: TestClient, method: str, path: str, given: dict[str, Any]) -> None:
    key = made(api, read_only=True)
    told = error_of(api.request(method, path, headers=bearer(key), **given), 403, "not_authorized")
    assert told.startswith(f"Key {key['id']} is read-only.")


def test_read_only_reads_and_completes(api: TestClient) -> None:
    key = made(api, read_only=True)
    for path in ("/luthier/v1/jobs", "/luthier/v1/tables", "/v1/models", KEYS, "/luthier/v1/usage/credits"):
        assert api.get(path, headers=bearer(key)).status_code == 200, path
    assert api.post(CHAT, json=ASK, headers=bearer(key)).status_code == 200
    for statement in (
        "SELECT 1",
        "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'hi')",
        "SELECT SNOWFLAKE.CORTEX.FINETUNE('SHOW')",
    ):
        response = api.post("/luthier/v1/sql", json={"statement": statement}, headers=bearer(key))
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("scope", "statement"),
    [
        ({"endpoints": ["sql"]}, "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'hi')"),
        ({"endpoints": ["sql"]}, "SELECT AI_COMPLETE('tiny', 'hi')"),
        ({"endpoints": ["sql"]}, "SELECT SNOWFLAKE.CORTEX.FINETUNE('SHOW')"),
        ({"endpoints": ["sql"]}, "SHOW MODELS"),
        ({"endpoints": ["sql"]}, "SELECT * FROM SNOWFLAKE.ACCOUNT_USAGE.CORTEX_FINE_TUNING_USAGE_HISTORY"),
        ({"models": ["other"]}, "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'hi')"),
        ({"models": ["other"]}, "SELECT SNOWFLAKE.CORTEX.TRY_COMPLETE('tiny', 'hi')"),
        ({"models": ["other"]}, "SELECT AI_COMPLETE('tiny', 'hi')"),
        ({"models": ["other"]}, "DROP MODEL tuned"),
        ({"models": ["other"]}, "SHOW VERSIONS IN MODEL tuned"),
        ({"models": ["other"]}, "SHOW GRANTS ON MODEL tuned"),
        ({"models": ["other"]}, "GRANT USAGE ON MODEL other TO ROLE r"),
        ({"models": ["other"]}, "DROP VIEW other"),
        ({"models": ["other"]}, "CREATE VIEW v AS SELECT 1 AS a"),
        ({"models": ["other"], "endpoints": ["sql", "tables"]}, "REVO\u212aE SELECT ON TABLE faq FROM ROLE r"),
        ({"endpoints": ["sql", "tables"]}, "REVO\u212aE USAGE ON MODEL tuned FROM ROLE r"),
        ({"endpoints": ["sql", "tables"]}, "SHOW VERSIONS LIKE 'V1' IN MODEL tuned"),
        ({"read_only": True}, "REVO\u212aE USAGE ON MODEL tuned FROM ROLE r"),
        ({"models": ["other"]}, "SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE', 'm', 'tiny', 'SELECT 1')"),
        ({"endpoints": ["completions"]}, "SELECT 1"),
    ],
)
def test_sql_is_no_way_around_a_scope(api: TestClient, scope: dict[str, Any], statement: str) -> None:
    key = made(api, **scope)
    error_of(api.post("/luthier/v1/sql", json={"statement": statement}, headers=bearer(key)), 403, "not_authorized")


@pytest.mark.parametrize("path", ["/luthier/v1/jobs", "/v1/batches"])
def test_a_key_for_some_models_starts_nothing_that_reaches_others(api: TestClient, path: str) -> None:
    key = made(api, models=["tiny"])
    assert "may reach any" in error_of(api.post(path, json={}, headers=bearer(key)), 403, "not_authorized")


def test_a_key_for_one_model_follows_no_other_ones_job(api: TestClient, tuned: str) -> None:
    (job,) = api.get("/luthier/v1/jobs").json()["jobs"]
    describe = {"statement": f"SELECT SNOWFLAKE.CORTEX.FINETUNE('DESCRIBE', '{job['id']}')"}
    for model, status in (("other", 403), (tuned, 200)):
        key = bearer(made(api, models=[model]))
        for part in ("", "/events", "/logs", "/metrics", "/answers"):
            assert api.get(f"/luthier/v1/jobs/{job['id']}{part}", headers=key).status_code == status, part
        assert api.post("/luthier/v1/sql", json=describe, headers=key).status_code == status


def test_a_key_for_some_models_reads_no_batches(api: TestClient) -> None:
    batch = ended(api, create_batch(api, [chat_line("a")])["id"])
    key = bearer(made(api, models=["other"]))
    for file in (batch["input_file_id"], batch["output_file_id"]):
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content"):
            assert api.get(path).status_code == 200, path
            assert "may reach any" in error_of(api.get(path, headers=key), 403, "not_authorized"), path
    assert "may reach any" in error_of(api.get(f"/v1/batches/{batch['id']}", headers=key), 403, "not_authorized")
    assert api.get("/v1/batches", headers=key).status_code == 200


def test_every_key_may_ask_who_it_is(api: TestClient) -> None:
    key = made(api, endpoints=["usage"], read_only=True)
    told = api.get("/luthier/v1/whoami", headers=bearer(key)).json()
    assert (told["key"], told["scope"]["endpoints"]) == (key["id"], ["usage"])


def test_a_scoped_key_makes_no_wider_one(api: TestClient) -> None:
    key = made(api, endpoints=["admin", "usage"])
    told = error_of(api.post(KEYS, json={}, headers=bearer(key)), 403, "not_authorized")
    assert "It makes no key with more: everything." in told
    assert api.post(KEYS, json={"endpoints": ["usage"]}, headers=bearer(key)).status_code == 201


def test_revoked_expired_and_unknown_are_told_apart(api: TestClient, later: Callable[[], None]) -> None:
    key = made(api, expires_in_s=1)
    assert api.get("/luthier/v1/whoami", headers=bearer(key)).status_code == 200
    later()
    assert f"{key['id']} has expired" in error_of(api.get(KEYS, headers=bearer(key)), 401, "invalid_api_key")
    key = made(api)
    api.delete(f"{KEYS}/{key['id']}")
    assert f"{key['id']} was revoked on" in error_of(api.get(KEYS, headers=bearer(key)), 401, "invalid_api_key")


def test_a_revoked_key_ends_at_all_doors_in_the_stated_time(
    api: TestClient, direct: ASGIApp, registry: Registry
) -> None:
    key = made(api)
    doors = [api, TestClient(direct)]
    assert [door.post(CHAT, json=ASK, headers=bearer(key)).status_code for door in doors] == [200, 200]
    api.delete(f"{KEYS}/{key['id']}")
    since, left = time.monotonic(), doors
    while left:
        left = [door for door in left if door.post(CHAT, json=ASK, headers=bearer(key)).status_code == 200]
        assert time.monotonic() - since < FRESH_SECONDS + 1
        time.sleep(0.1)


def test_rotate(api: TestClient, later: Callable[[], None]) -> None:
    old = made(api, name="ci", endpoints=["completions"])
    new = api.post(f"{KEYS}/{old['id']}/rotate", json={"grace_s": 1}).json()
    assert (new["name"], new["scope"]) == ("ci", old["scope"])
    assert {api.post(CHAT, json=ASK, headers=bearer(key)).status_code for key in (old, new)} == {200}
    later()
    told = error_of(
        api.get("/luthier/v1/whoami", headers={"Authorization": f"Snowflake Token={old['key']}"}),
        401,
        "invalid_api_key",
    )
    assert "expired" in told
    assert api.post(CHAT, json=ASK, headers=bearer(new)).status_code == 200
    error_of(api.post(f"{KEYS}/{old['id']}/rotate"), 409, "conflict")


def test_last_use_is_told_beside_the_requests(api: TestClient, registry: Registry) -> None:
    key = made(api)
    used = registry.keys.used
    told: list[dict[str, int]] = []
    registry.keys.used = lambda times: told.append(dict(times)) or used(times)
    before = int(time.time() * 1000)
    for _ in range(20):
        api.get("/luthier/v1/whoami", headers=bearer(key))
    for _ in range(300):
        (row,) = [row for row in api.get(KEYS).json()["keys"] if row["id"] == key["id"]]
        if row["last_used_on"]:
            break
        time.sleep(0.1)
    assert before <= row["last_used_on"] <= time.time() * 1000


def test_the_cli(cli: Any) -> None:
    created = cli(
        "keys", "create", "--name", "ci", "--endpoint", "completions", "--model", "tiny", "--expires-in", "90d"
    )
    assert created.exit_code == 0, created.output
    secret = created.stdout.strip()
    assert secret.startswith("lt_")
    assert "for endpoints completions; models tiny." in created.stderr
    (key,) = [row for row in json.loads(cli("keys", "list", "--json").stdout) if row["name"] == "ci"]
    assert abs(key["expires_on"] - (time.time() + 90 * 86400) * 1000) < 60_000
    listed = cli("keys", "list").stdout
    assert key["id"] in listed
    assert secret not in listed
    rotated = json.loads(cli("keys", "rotate", key["id"], "--grace", "1h", "--json").stdout)
    assert rotated["key"] != secret
    assert cli("keys", "revoke", key["id"]).stdout == f"Revoked key {key['id']}.\n"
    refused = cli("keys", "revoke", "key_none")
    assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1)
    assert "write a number and s, m, h or d" in cli("keys", "create", "--expires-in", "soon").stderr


def test_the_python_client(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(server, KEY)
    key = client.keys.create("ci", endpoints=["completions"], expires_in_s=60)
    narrow = Client(server, key["key"])
    assert narrow.complete("tiny", "hi")
    with pytest.raises(NotAllowed, match="not for admin"):
        narrow.keys.list()
    assert {row["id"] for row in client.keys.list()} >= {key["id"]}
    new = client.keys.rotate(key["id"], grace_s=0)
    assert Client(server, new["key"]).complete("tiny", "hi")
    assert client.keys.revoke(new["id"])["revoked_on"]
