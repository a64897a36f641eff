"""A model is asked by another account through a share: by every door, on its own bill, and never looked into."""

from time import monotonic
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from luthier.platform.access import Caller, hash_key
from luthier.platform.jobs import now_ms
from luthier.platform.keys import NewKey
from luthier.platform.metering import DAY_MS, UsageKind
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, ledger_of
from tests.flow.batches import chat_line, create_batch, ended
from tests.flow.conftest import CHAT, create, error_of, sql
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture
from tests.flow.test_access import ask, ask_body, sql_error

pytestmark = pytest.mark.usefixtures("tuned")
GIVE = (
    "CREATE SHARE partners COMMENT = 'for the tenant'",
    "GRANT USAGE ON DATABASE luthier TO SHARE partners",
    "GRANT USAGE ON SCHEMA luthier.public TO SHARE partners",
    "GRANT USAGE ON MODEL luthier.public.tuned TO SHARE partners",
    "ALTER SHARE partners ADD ACCOUNTS = tenant",
)
MODEL = "theirs.public.tuned"
SHOWN = ["created_on", "kind", "owner_account", "name", "database_name", "to", "owner", "comment"]
TENANT = Caller(account="tenant", user="admin", role="ACCOUNTADMIN")


@pytest.fixture
def tenant(api: TestClient, join: Join) -> TestClient:  # noqa: F811
    """The admin of the account that uses the share."""
    client = join("ACCOUNTADMIN", account="tenant")
    run_all(api, *GIVE)
    run_all(client, "CREATE DATABASE theirs FROM SHARE main.partners")
    return client


def gone(response: Any) -> bool:
    return "Unknown model" in error_of(response, 404, "model_not_found")


def later(clock: list[float]) -> None:
    clock[0] += 1.0


@pytest.fixture
def clock(app: FastAPI, registry: Registry) -> list[float]:
    """Of what doors remember of models' names; a second on, they ask again."""
    moved = [0.0]
    services = app.state.services
    resolvers = [services.resolver, *(each._resolver for each in services.completions._completers.values())]
    for resolver in resolvers:
        known = resolver._tuned
        known._clock = known._epoch.clock = lambda: monotonic() + moved[0]
    return moved


def test_every_door_answers_the_consumer(tenant: TestClient) -> None:
    assert ask(tenant, MODEL).json()["choices"][0]["message"]["content"].endswith("hello")
    assert ask(tenant, f"{MODEL}@1").status_code == 200
    cortex = "/api/v2/cortex"
    assert tenant.post(f"{cortex}/v1/chat/completions", json=ask_body(MODEL)).status_code == 200
    assert tenant.post(f"{cortex}/inference:complete", json={**ask_body(MODEL), "stream": False}).status_code == 200
    assert tenant.post("/v1/completions", json={"model": MODEL, "prompt": "a"}).status_code == 200
    assert sql(tenant, f"SELECT SNOWFLAKE.CORTEX.COMPLETE('{MODEL}', 'a')")
    assert sql(tenant, f"SELECT AI_COMPLETE('{MODEL}', 'a')")
    assert "THEIRS.PUBLIC.TUNED" in tenant.get(f"{cortex}/models").json()["models"]
    assert "THEIRS.PUBLIC.TUNED" in [each["id"] for each in tenant.get("/v1/models").json()["data"]]
    (made,) = (each for each in rows(tenant, "SHOW DATABASES") if each["name"] == "THEIRS")
    assert (made["kind"], made["origin"]) == ("IMPORTED DATABASE", "main.PARTNERS")
    for place in ("IN DATABASE theirs", ""):
        (schema,) = (each for each in rows(tenant, f"SHOW SCHEMAS {place}") if each["database_name"] == "THEIRS")
        assert schema["name"] == "PUBLIC"
    (shown,) = rows(tenant, "SHOW MODELS IN SCHEMA theirs.public")
    assert (shown["database_name"], shown["name"], shown["owner"]) == ("THEIRS", "TUNED", "main")
    assert gone(ask(tenant, "tuned")), "by its own account's name it is not there"


def test_it_is_never_looked_into(tenant: TestClient, api: TestClient) -> None:
    before = api.get("/luthier/v1/models/tuned/history").json()
    path = f"/luthier/v1/models/{MODEL}"
    told = tenant.get(path).json()
    assert (told["model"], told["origin"]) == ("THEIRS.PUBLIC.TUNED", "main.LUTHIER.PUBLIC.TUNED")
    assert [told[inside] for inside in ("sha256", "job_id", "rank", "method", "parent")] == [None] * 5
    assert "path" not in told
    assert tenant.post(f"{path}/warm").json()["sha256"] is None
    requests = [("GET", part) for part in ("artifacts", "artifacts/adapter_model.safetensors", "export", "versions")]
    requests += [("GET", "history"), ("DELETE", ""), ("DELETE", "canary"), ("DELETE", "aliases/a")]
    bodies = {"promote": {"version": 1, "warm": False}, "rollback": {"leaving": 1, "warm": False}}
    answers = [tenant.request(method, f"{path}/{part}".rstrip("/")) for method, part in requests]
    answers += [tenant.post(f"{path}/{part}", json=body) for part, body in bodies.items()]
    answers += [tenant.put(f"{path}/canary", json={"version": 1, "share": 5.0, "warm": False})]
    answers += [tenant.put(f"{path}/aliases/a", json={"version": 1})]
    answers += [tenant.get(f"{path}/export", params={"merged": True}), tenant.delete(f"/v1/models/{MODEL}")]
    for answer in answers:
        assert "another account's, which shares it to be asked alone" in error_of(answer, 403, "not_authorized")
    for statement in ("SHOW VERSIONS IN MODEL {}", "DROP MODEL {}", "ALTER MODEL {} SET DEFAULT_VERSION = V1"):
        sql_error(tenant, statement.format(MODEL), 403, "not_authorized")
    continued = {"model": "mine", "training_data": "SELECT 'a' AS prompt, 'b' AS completion"}
    error_of(create(tenant, **continued, options={"continue_from": MODEL}), 403, "not_authorized")
    assert api.get("/luthier/v1/models/tuned/history").json() == before
    assert "No artifacts" not in api.get("/luthier/v1/models/tuned/artifacts").text


def test_nothing_is_made_or_granted_in_its_database(tenant: TestClient) -> None:
    data = {"training_data": "SELECT 'a' AS prompt, 'b' AS completion"}
    for name in (MODEL, "theirs.public.mine", "theirs.other.mine"):
        made = create(tenant, model=name, **data, options={"new_version": True})
        assert "was made of a share" in error_of(made, 409, "conflict")
    table = {"name": "theirs.public.t", "filename": "a.csv"}
    error_of(tenant.post("/luthier/v1/tables", params=table, content=b"a\n1\n"), 409, "conflict")
    sql_error(tenant, "GRANT USAGE ON DATABASE theirs TO ROLE public", 409, "conflict")
    sql_error(tenant, "CREATE SCHEMA theirs.mine", 409, "conflict")
    sql_error(tenant, "GRANT CREATE MODEL ON SCHEMA theirs.public TO ROLE public", 404, "not_found")
    for privilege in ("USAGE", "OWNERSHIP"):
        sql_error(tenant, f"GRANT {privilege} ON MODEL {MODEL} TO ROLE public", 404, "model_not_found")
    run_all(tenant, "CREATE SHARE onward")
    sql_error(tenant, "GRANT USAGE ON DATABASE theirs TO SHARE onward", 409, "conflict")


def test_it_is_on_the_consumers_bill_and_under_its_limits(
    tenant: TestClient, api: TestClient, registry: Registry
) -> None:
    ask(tenant, MODEL)
    (row,) = tenant.get("/luthier/v1/usage/completions").json()["usage"]
    assert (row["account"], row["model"], row["version"]) == ("tenant", "main.LUTHIER.PUBLIC.TUNED", 1)
    assert row["amount_ucr"] > 0
    assert api.get("/luthier/v1/usage/completions").json()["usage"] == []
    today = now_ms() // DAY_MS * DAY_MS
    registry.storage._clock = lambda: today + 2 * DAY_MS
    registry.ledger.append(registry.storage.due())
    stored = [len(ledger_of(registry, UsageKind.STORAGE, each)) for each in (ADMIN, TENANT)]
    assert (stored[0] > 0, stored[1]) == (True, 0)


def test_the_consumers_credits_limit_it(tenant: TestClient, api: TestClient) -> None:
    assert api.put("/luthier/v1/credits/limit", json={"account": "tenant"}).status_code == 200
    assert error_of(ask(tenant, MODEL), 402, "insufficient_credits")
    assert ask(api).status_code == 200, "the provider has no limit"


def test_its_batches_are_on_its_bill_too(tenant: TestClient, api: TestClient) -> None:
    done = ended(tenant, create_batch(tenant, [chat_line("a", model=MODEL), chat_line("b", model="tuned")])["id"])
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (row,) = tenant.get("/luthier/v1/usage/completions").json()["usage"]
    assert (row["account"], row["model"]) == ("tenant", "main.LUTHIER.PUBLIC.TUNED")
    assert api.get("/luthier/v1/usage/completions").json()["usage"] == []


def test_roles_of_the_consumer_need_the_imported_privileges(
    tenant: TestClient, registry: Registry, app: FastAPI, clock: list[float]
) -> None:
    run_all(tenant, "CREATE ROLE asker", "CREATE USER bob", "GRANT ROLE asker TO USER bob")
    registry.keys.create(TENANT, NewKey(id="key_b", hash=hash_key("lt_bob"), prefix="lt_b", user="BOB", role="ASKER"))
    bob = TestClient(app, headers={"Authorization": "Bearer lt_bob"})
    bob.portal = tenant.portal
    assert gone(ask(bob, MODEL))
    assert rows(bob, "SHOW MODELS") == []
    run_all(tenant, "GRANT IMPORTED PRIVILEGES ON DATABASE theirs TO ROLE asker")
    assert ask(bob, MODEL).status_code == 200
    assert [row["privilege"] for row in rows(tenant, "SHOW GRANTS TO ROLE asker")] == ["IMPORTED PRIVILEGES"]
    error_of(bob.get(f"/luthier/v1/models/{MODEL}/artifacts"), 403, "not_authorized")
    run_all(tenant, "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE PUBLIC")
    later(clock)
    assert "CORTEX_USER" in ask(bob, MODEL).json()["error"]["message"]
    run_all(tenant, "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE asker")
    run_all(tenant, "REVOKE IMPORTED PRIVILEGES ON DATABASE theirs FROM ROLE asker")
    later(clock)
    assert gone(ask(bob, MODEL))
    assert "was not" in sql_error(
        tenant, "GRANT IMPORTED PRIVILEGES ON DATABASE luthier TO ROLE asker", 400, "invalid_parameter_value"
    )


TAKEN = (
    ("ALTER SHARE partners REMOVE ACCOUNTS = tenant", "ALTER SHARE partners ADD ACCOUNTS = tenant"),
    ("ALTER SHARE partners SET ACCOUNTS = other", "ALTER SHARE partners SET ACCOUNTS = other, TENANT"),
    ("REVOKE USAGE ON MODEL tuned FROM SHARE partners", "GRANT USAGE ON MODEL tuned TO SHARE partners"),
    ("REVOKE USAGE ON SCHEMA public FROM SHARE partners", "GRANT USAGE ON SCHEMA public TO SHARE partners"),
    ("REVOKE USAGE ON DATABASE luthier FROM SHARE partners", "; ".join(GIVE[1:4])),
    ("DROP SHARE partners", "; ".join(GIVE)),
    ("DROP MODEL tuned", ""),
)


def test_what_is_taken_is_gone_within_a_second(tenant: TestClient, api: TestClient, clock: list[float]) -> None:
    for taken, given in TAKEN:
        assert ask(tenant, MODEL).status_code == 200, taken
        run_all(api, taken)
        later(clock)
        told, none = (ask(tenant, f"theirs.public.{name}") for name in ("tuned", "nothing"))
        assert gone(told), taken
        assert told.json()["error"]["message"].replace("tuned", "nothing") == none.json()["error"]["message"]
        assert tenant.get("/luthier/v1/models").json() == {"models": []}
        error_of(tenant.get(f"/luthier/v1/models/{MODEL}"), 404, "model_not_found")
        run_all(api, *(each for each in given.split("; ") if each))
        if taken.startswith("DROP SHARE"):
            run_all(tenant, "DROP DATABASE theirs", "CREATE DATABASE theirs FROM SHARE main.partners")


def test_a_share_or_a_model_of_the_same_name_later_is_another(
    tenant: TestClient, api: TestClient, train: Any, clock: list[float]
) -> None:
    run_all(api, "DROP MODEL tuned")
    train(create(api).json()["id"])
    assert gone(ask(tenant, MODEL)), "what had been granted ended with the first of that name"
    run_all(api, "GRANT USAGE ON MODEL tuned TO SHARE partners")
    assert ask(tenant, MODEL).status_code == 200
    run_all(api, "DROP SHARE partners", *GIVE)
    later(clock)
    assert gone(ask(tenant, MODEL))
    assert "theirs" not in str(rows(tenant, "SHOW SHARES")).lower().replace("'database_name': ''", "")
    run_all(tenant, "DROP DATABASE theirs", "CREATE DATABASE theirs FROM SHARE main.partners")
    assert ask(tenant, MODEL).status_code == 200


def test_what_is_shown_of_shares(tenant: TestClient, api: TestClient) -> None:
    (own,) = rows(api, "SHOW SHARES")
    assert list(own) == [*SHOWN, "listing_global_name", "secure_objects_only"]
    assert [own[name] for name in SHOWN[1:]] == [
        *("OUTBOUND", "main", "PARTNERS", "LUTHIER", "TENANT", "ACCOUNTADMIN", "for the tenant")
    ]
    (theirs,) = rows(tenant, "SHOW SHARES")
    assert [theirs[name] for name in SHOWN[1:]] == ["INBOUND", "main", "PARTNERS", "THEIRS", "", "", "for the tenant"]
    objects = [(row["kind"], row["name"]) for row in rows(api, "DESC SHARE partners")]
    assert objects == [
        ("DATABASE", "LUTHIER"),
        ("SCHEMA", "LUTHIER.PUBLIC"),
        ("MODEL", "LUTHIER.PUBLIC.TUNED"),
    ]
    seen = [row["name"] for row in rows(tenant, "DESCRIBE SHARE main.partners")]
    assert seen == ["<DB>", "<DB>.PUBLIC", "<DB>.PUBLIC.TUNED"]
    granted = rows(api, "SHOW GRANTS TO SHARE partners")
    assert {(row["privilege"], row["granted_to"], row["grantee_name"]) for row in granted} == {
        ("USAGE", "SHARE", "PARTNERS")
    }
    assert [row["grantee_name"] for row in rows(api, "SHOW GRANTS OF SHARE partners")] == ["TENANT"]
    assert "SHARE" in [row["granted_to"] for row in rows(api, "SHOW GRANTS ON MODEL tuned")]
    for statement in ("DESC SHARE main.nothing", "DESC SHARE nobody.partners", "CREATE DATABASE x FROM SHARE main.no"):
        assert "is open to this one" in sql_error(tenant, statement, 404, "not_found")


NOT_TAKEN = (
    ("GRANT READ ON MODEL tuned TO SHARE partners", 400, "a share takes USAGE on a DATABASE, on a SCHEMA and on a"),
    ("GRANT OWNERSHIP ON MODEL tuned TO SHARE partners", 400, "is not shared"),
    ("GRANT SELECT ON TABLE faq TO SHARE partners", 400, "is not shared"),
    ("GRANT USAGE ON FUTURE MODELS IN SCHEMA public TO SHARE partners", 400, "FUTURE is not for shares"),
    ("GRANT USAGE ON DATABASE second TO SHARE partners", 409, "it gives one"),
    ("GRANT USAGE ON SCHEMA second.public TO SHARE partners", 409, "`GRANT USAGE ON DATABASE SECOND TO SHARE"),
    ("GRANT USAGE ON MODEL nothing TO SHARE partners", 404, "No model"),
    ("GRANT USAGE ON MODEL tuned TO SHARE nothing", 404, "No share NOTHING"),
    ("ALTER SHARE partners ADD ACCOUNTS = main", 400, "is your own"),
    ("DROP DATABASE nothing", 404, "No database NOTHING"),
)


def test_what_a_share_does_not_take(tenant: TestClient, api: TestClient) -> None:
    run_all(api, "CREATE DATABASE second")
    for statement, status, words in NOT_TAKEN:
        response = api.post("/luthier/v1/sql", json={"statement": statement})
        assert (response.status_code, words in response.json()["error"]["message"]) == (status, True), response.text


def test_a_database_of_a_share_has_a_name_of_its_own(tenant: TestClient, api: TestClient) -> None:
    run_all(api, "CREATE SHARE more", "ALTER SHARE more ADD ACCOUNTS = tenant")
    run_all(tenant, "CREATE DATABASE own")
    for name in ("theirs", "luthier", "snowflake", "own"):
        sql_error(tenant, f"CREATE DATABASE {name} FROM SHARE main.more", 409, "conflict")
    assert "was made of that share" in sql_error(tenant, "CREATE DATABASE x FROM SHARE main.partners", 409, "conflict")
    run_all(tenant, "CREATE DATABASE theirs FROM SHARE main.partners")


def test_who_may_make_and_use_shares(api: TestClient, join: Join, tenant: TestClient) -> None:  # noqa: F811
    ann = join("ANALYST")
    hidden = [sql_error(ann, f"DROP SHARE {name}", 404, "not_found") for name in ("partners", "nothing")]
    assert hidden[0].replace("PARTNERS", "NOTHING") == hidden[1]
    assert rows(ann, "SHOW SHARES") == []
    assert "CREATE SHARE ON ACCOUNT" in sql_error(ann, "CREATE SHARE anns", 403, "not_authorized")
    run_all(api, "GRANT CREATE SHARE, IMPORT SHARE ON ACCOUNT TO ROLE analyst")
    run_all(ann, "CREATE SHARE anns")
    assert [row["name"] for row in rows(ann, "SHOW SHARES")] == ["ANNS"]
    given = "GRANT USAGE ON DATABASE luthier TO SHARE anns"
    assert "No database LUTHIER" in sql_error(ann, given, 404, "not_found")
    run_all(api, "GRANT USAGE ON DATABASE luthier TO ROLE analyst")
    assert "is needed to grant privileges on it" in sql_error(ann, given, 403, "not_authorized")
    run_all(api, "GRANT OWNERSHIP ON SHARE partners TO ROLE analyst", "DROP ROLE analyst")
    assert {row["owner"] for row in rows(api, "SHOW SHARES")} == {"ACCOUNTADMIN"}
    error_of(tenant.post(CHAT, json=ask_body("main.partners")), 404, "model_not_found")


def test_each_statement_and_route_is_in_the_audit(tenant: TestClient, api: TestClient, registry: Registry) -> None:
    told = [row["object_name"] for row in api.get("/luthier/v1/audit").json()["audit"]]
    assert set(GIVE) <= set(told)
    (theirs,) = [row for row in tenant.get("/luthier/v1/audit").json()["audit"] if "FROM SHARE" in row["object_name"]]
    assert theirs["is_allowed"]
    api.post("/luthier/v1/shares", json={"name": "more"})
    api.delete("/luthier/v1/shares/more")
    actions = [row["action"] for row in api.get("/luthier/v1/audit").json()["audit"][:2]]
    assert actions == ["drop_share", "create_share"]


@pytest.mark.parametrize("spellings", [("{}",), ("{}", "{}"), ("{}", "{!u}")], ids=["one", "twice", "in other letters"])
def test_nobody_is_told_which_accounts_there_are(api: TestClient, join: Join, spellings: tuple[str, ...]) -> None:  # noqa: F811
    """Whoever opens a share to an account reads the same of one that is there and of one that is not."""
    join("ACCOUNTADMIN", account="acme")
    run_all(api, *GIVE[:-1])
    answers = []
    for name in ("acme", "nobody"):
        written = ", ".join(each.replace("{!u}", name.upper()).format(name) for each in spellings)
        read = []
        for statement in (
            f"ALTER SHARE partners ADD ACCOUNTS = {written}",
            "SHOW SHARES",
            "SHOW GRANTS OF SHARE partners",
            f"ALTER SHARE partners SET ACCOUNTS = {written}",
            "SHOW SHARES",
            f"ALTER SHARE partners REMOVE ACCOUNTS = {name.capitalize()}",
            "SHOW GRANTS OF SHARE partners",
        ):
            told = [{**row, "created_on": 0} for row in rows(api, statement)]
            read.append(str(told).replace(name.upper(), "X").replace(name, "x"))
        answers.append(read)
    assert answers[0] == answers[1]
    assert "X" in answers[0][1]


def test_a_share_opens_to_an_account_in_any_letters(api: TestClient, join: Join) -> None:  # noqa: F811
    client = join("ACCOUNTADMIN", account="tenant")
    run_all(api, *GIVE[:-1], "ALTER SHARE partners ADD ACCOUNTS = TeNaNt")
    run_all(client, "CREATE DATABASE theirs FROM SHARE main.partners")
    response = api.post("/luthier/v1/accounts", json={"name": "TENANT"})
    assert "in other letters" in error_of(response, 409, "conflict")
