"""Who may do what, through every door: what is missing is named, what gives it works, what is taken is gone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN
from tests.flow.conftest import CHAT, create, error_of, upload
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("tuned")
OPEN = ("GRANT USAGE ON DATABASE luthier TO ROLE analyst", "GRANT USAGE ON SCHEMA public TO ROLE analyst")
SHOW = ["created_on", "privilege", "granted_on", "name", "granted_to", "grantee_name", "grant_option", "granted_by"]


def ask(client: TestClient, model: str = "tuned") -> Any:
    return client.post(CHAT, json={"model": model, "messages": [{"role": "user", "content": "hello"}]})


def shown(client: TestClient) -> list[dict[str, Any]]:
    """What one is told of the model, by those routes that ask for no more than USAGE."""
    path = "/luthier/v1/models/tuned"
    return [client.get(path).json(), {**client.post(f"{path}/warm").json()}]


def sql_error(client: TestClient, statement: str, status: int, code: str) -> str:
    return error_of(client.post("/luthier/v1/sql", json={"statement": statement}), status, code)


def test_public_never_becomes_accountadmin(api: TestClient) -> None:
    """Whether it is granted itself, or a role that holds it, or to a role that PUBLIC holds."""
    run_all(api, "CREATE ROLE boss", "CREATE ROLE staff", "GRANT ROLE ACCOUNTADMIN TO ROLE boss")
    run_all(api, "GRANT ROLE staff TO ROLE PUBLIC")
    for role, to in (("ACCOUNTADMIN", "PUBLIC"), ("boss", "PUBLIC"), ("boss", "staff"), ("ACCOUNTADMIN", "staff")):
        told = sql_error(api, f"GRANT ROLE {role} TO ROLE {to}", 400, "invalid_parameter_value")
        assert f"is not granted to {to.upper()}" in told
        assert "PUBLIC" in told
    run_all(api, "REVOKE ROLE staff FROM ROLE PUBLIC", "GRANT ROLE boss TO ROLE staff")
    told = sql_error(api, "GRANT ROLE staff TO ROLE PUBLIC", 400, "invalid_parameter_value")
    assert told == ("Role STAFF, which holds ACCOUNTADMIN, is not granted to PUBLIC: PUBLIC is every user's role.")
    assert not [row for row in rows(api, "SHOW GRANTS TO ROLE PUBLIC") if row["granted_on"] == "ROLE"]


def test_a_model_is_hidden_then_asked_then_looked_into_then_owned(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    for name in ("tuned", "nothing"):
        assert "Unknown model" in error_of(ask(ann, name), 404, "model_not_found")
    run_all(api, *OPEN, "GRANT USAGE ON MODEL tuned TO ROLE analyst")
    assert ask(ann).status_code == 200
    assert [model["model"] for model in ann.get("/luthier/v1/models").json()["models"]] == ["LUTHIER.PUBLIC.tuned"]
    assert [row["versions"] for row in rows(ann, "SHOW MODELS")] == ['["V1"]']
    inside = ("job_id", "sha256", "rank", "method", "parent")
    for told in (*ann.get("/luthier/v1/models").json()["models"], *shown(ann)):
        assert {told[name] for name in inside} == {None}
    told = error_of(ann.get("/luthier/v1/models/tuned/versions"), 403, "not_authorized")
    assert told == (
        "READ ON MODEL LUTHIER.PUBLIC.TUNED is needed to look into the model, and role ANALYST does not have it. "
        "`GRANT READ ON MODEL LUTHIER.PUBLIC.TUNED TO ROLE ANALYST` gives it."
    )
    run_all(api, told.split("`")[1])
    assert ann.get("/luthier/v1/models/tuned/versions").status_code == 200
    assert shown(ann) == shown(api)
    assert shown(ann)[0]["sha256"]
    for path in ("artifacts", "artifacts/training_results.csv", "export"):
        told = error_of(ann.get(f"/luthier/v1/models/tuned/{path}"), 403, "not_authorized")
        assert "OWNERSHIP ON MODEL" in told
    assert "OWNERSHIP" in error_of(ann.delete("/luthier/v1/models/tuned"), 403, "not_authorized")
    run_all(api, told.split("`")[1])
    assert ann.get("/luthier/v1/models/tuned/artifacts/training_results.csv").status_code == 200
    assert ann.delete("/luthier/v1/models/tuned").status_code == 200


def test_finetune_asks_for_each_right_by_its_name(
    api: TestClient,
    join: Join,  # noqa: F811
    train: Callable[[str], Path],
) -> None:
    ann, given = join("ANALYST"), []
    run_all(api, "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE PUBLIC")
    for needed in ("DATABASE ROLE SNOWFLAKE.CORTEX_USER", "USAGE ON DATABASE LUTHIER", "CREATE MODEL ON SCHEMA"):
        told = error_of(create(ann, model="anns"), 403, "not_authorized")
        assert told.startswith(needed)
        run_all(api, told.split("`")[1])
        given.append(needed)
    assert "no table faq that you can read" in error_of(create(ann, model="anns"), 422, "sql_compilation_error")
    run_all(api, "GRANT USAGE ON SCHEMA public TO ROLE analyst", "GRANT SELECT ON TABLE faq TO ROLE analyst")
    made = create(ann, model="anns")
    assert made.status_code == 201
    train(made.json()["id"])
    assert ask(ann, "anns").status_code == 200
    assert ann.get("/luthier/v1/models/anns/artifacts").status_code == 200, "who made it owns it"
    assert {job["id"] for job in api.get("/luthier/v1/jobs").json()["jobs"]} > {made.json()["id"]}
    assert [job["id"] for job in ann.get("/luthier/v1/jobs").json()["jobs"]] == [made.json()["id"]]
    other = join("OTHER", "OTTO")
    told = error_of(other.get("/luthier/v1/jobs"), 403, "not_authorized")
    run_all(api, told.split("`")[1])
    assert other.get("/luthier/v1/jobs").json() == {"jobs": []}
    for job_id in (made.json()["id"], "ft_nothing"):
        told = error_of(other.get(f"/luthier/v1/jobs/{job_id}"), 404, "not_found")
        assert told.replace(job_id, "ID") == "No fine-tuning job 'ID'. `luthier finetune show` lists those there are."


def test_a_job_is_out_of_reach_for_who_may_not_fine_tune(api: TestClient, faq: str, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(
        api,
        *OPEN,
        "GRANT CREATE MODEL ON SCHEMA public TO ROLE analyst",
        f"GRANT SELECT ON TABLE {faq} TO ROLE analyst",
    )
    job = create(ann, model="anns").json()["id"]
    run_all(api, "REVOKE USE AI FUNCTIONS ON ACCOUNT FROM ROLE PUBLIC")
    start = create(ann, model="next", options={"continue_from": job})
    for refused in (start, ann.get(f"/luthier/v1/jobs/{job}/events")):
        assert "USE AI FUNCTIONS ON ACCOUNT is needed to" in error_of(refused, 403, "not_authorized")
    for given in ("'SHOW'", f"'DESCRIBE', '{job}'"):
        told = sql_error(ann, f"SELECT SNOWFLAKE.CORTEX.FINETUNE({given})", 403, "not_authorized")
        assert "USE AI FUNCTIONS ON ACCOUNT is needed to" in told
    assert rows(ann, f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CANCEL', '{job}')"), "to stop what is his own spends nothing"
    run_all(api, told.split("`")[1])
    assert rows(ann, f"SELECT SNOWFLAKE.CORTEX.FINETUNE('DESCRIBE', '{job}')")


def test_tables_are_read_by_who_may(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    assert ann.get("/luthier/v1/tables").json() == {"tables": []}
    hidden = sql_error(ann, "SELECT * FROM faq", 422, "sql_compilation_error")
    assert hidden.replace("faq", "X") == sql_error(ann, "SELECT * FROM fax", 422, "sql_compilation_error").replace(
        "fax", "X"
    )
    run_all(api, *OPEN, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO ROLE analyst")
    assert len(rows(ann, "SELECT * FROM faq")) == 10
    told = error_of(ann.delete("/luthier/v1/tables/faq"), 403, "not_authorized")
    assert told.startswith("OWNERSHIP ON TABLE LUTHIER.PUBLIC.FAQ is needed to drop or replace the table")
    refused = ann.post("/luthier/v1/tables", params={"name": "mine", "filename": "a.csv"}, content=b"a\n1\n")
    assert error_of(refused, 403, "not_authorized").startswith("CREATE TABLE ON SCHEMA LUTHIER.PUBLIC is needed")
    run_all(api, "GRANT CREATE TABLE ON SCHEMA public TO ROLE analyst")
    upload(ann, "mine", b"a\n1\n")
    assert [table["name"] for table in ann.get("/luthier/v1/tables").json()["tables"]] == [
        "LUTHIER.PUBLIC.faq",
        "LUTHIER.PUBLIC.mine",
    ]
    run_all(api, "REVOKE SELECT ON TABLE faq FROM ROLE analyst")
    assert "no table faq" in sql_error(ann, "SELECT * FROM faq", 422, "sql_compilation_error")


def test_future_grants_meet_what_is_made_later_and_end_with_it(
    api: TestClient,
    join: Join,  # noqa: F811
    train: Callable[[str], Path],
) -> None:
    ann = join("ANALYST")
    run_all(api, *OPEN, "GRANT USAGE ON FUTURE MODELS IN SCHEMA luthier.public TO ROLE analyst")
    assert error_of(ask(ann), 404, "model_not_found"), "it was there before"
    (shown,) = rows(api, "SHOW FUTURE GRANTS IN SCHEMA public")
    assert (shown["name"], shown["grant_on"]) == ("LUTHIER.PUBLIC.<MODEL>", "MODEL")
    train(create(api, model="later").json()["id"])
    assert ask(ann, "later").status_code == 200
    run_all(api, "REVOKE USAGE ON FUTURE MODELS IN SCHEMA public FROM ROLE analyst", "DROP MODEL later")
    train(create(api, model="later").json()["id"])
    assert "later" not in ann.get("/luthier/v1/models").text, "what had been granted ended with the first of that name"
    run_all(api, "GRANT USAGE ON ALL MODELS IN SCHEMA public TO ROLE analyst")
    assert len(rows(ann, "SHOW MODELS")) == 2


def test_roles_inherit_and_form_no_ring(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, "CREATE ROLE reader COMMENT = 'reads'", "GRANT ROLE reader TO ROLE analyst")
    run_all(api, *(each.replace("analyst", "reader") for each in OPEN), "GRANT USAGE ON MODEL tuned TO ROLE reader")
    assert ask(ann).status_code == 200
    assert "form no ring" in sql_error(api, "GRANT ROLE analyst TO ROLE reader", 409, "conflict")
    assert "form no ring" in sql_error(api, "GRANT ROLE reader TO ROLE reader", 409, "conflict")
    assert {row["name"] for row in rows(ann, "SHOW ROLES")} == {"ANALYST", "READER", "PUBLIC"}
    run_all(api, "REVOKE ROLE reader FROM ROLE analyst")
    assert ann.get("/luthier/v1/models").json() == {"models": []}


def test_cortex_user_and_the_model_list(api: TestClient, join: Join) -> None:  # noqa: F811
    run_all(api, "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE PUBLIC")
    ann = join("ANALYST")
    for refused in (ask(ann, "tiny"), ann.post("/api/v2/cortex/v1/chat/completions", json=ask_body())):
        assert refused.status_code == 403, refused.text
        assert "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE ANALYST" in refused.text
    for function in ("COMPLETE('tiny', 'a')", "COUNT_TOKENS('tiny', 'a')"):
        assert "CORTEX_USER" in sql_error(ann, f"SELECT SNOWFLAKE.CORTEX.{function}", 403, "not_authorized")
    assert ask(api, "tiny").status_code == 200, "ACCOUNTADMIN may everything"
    run_all(api, "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE analyst")
    run_all(api, "ALTER ACCOUNT SET CORTEX_MODELS_ALLOWLIST = 'None'")
    assert ann.get("/v1/models").json()["data"] == []
    assert "not on the account's CORTEX_MODELS_ALLOWLIST" in error_of(ask(ann, "tiny"), 403, "not_authorized")
    run_all(api, 'GRANT APPLICATION ROLE SNOWFLAKE."CORTEX-MODEL-ROLE-TINY" TO ROLE analyst')
    assert ask(ann, "tiny").status_code == 200, "either the list or the role permits"
    assert [each["id"] for each in ann.get("/v1/models").json()["data"]] == ["tiny"]
    assert rows(api, "SHOW PARAMETERS")[0]["value"] == "None"


def test_who_may_not_fine_tune_any_more_stops_his_jobs(api: TestClient, faq: str, join: Join) -> None:  # noqa: F811
    ann, bob = join("ANALYST"), join("OTHER", "BOB")
    run_all(api, *OPEN, "GRANT CREATE MODEL ON SCHEMA luthier.public TO ROLE analyst")
    run_all(api, f"GRANT SELECT ON TABLE {faq} TO ROLE analyst")
    by_http, by_sql = (create(ann, model=name).json()["id"] for name in ("one", "two"))
    run_all(api, "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE PUBLIC")
    path = f"/luthier/v1/jobs/{by_http}"
    assert "CORTEX_USER is needed to see the job" in error_of(ann.get(path), 403, "not_authorized")
    error_of(bob.post(f"{path}/cancel"), 404, "not_found")
    assert ann.post(f"{path}/cancel").json()["status"] == "CANCELLED"
    run_all(ann, f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CANCEL', '{by_sql}')")
    assert api.get(f"/luthier/v1/jobs/{by_sql}").json()["status"] == "CANCELLED"


def test_ai_functions_are_used_by_who_may(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    assert ask(ann, "tiny").status_code == 200, "PUBLIC has it at first"
    run_all(api, "REVOKE USE AI FUNCTIONS ON ACCOUNT FROM ROLE PUBLIC")
    told = error_of(ask(join("OTHER"), "tiny"), 403, "not_authorized")
    assert "`GRANT USE AI FUNCTIONS ON ACCOUNT TO ROLE OTHER`" in told
    run_all(api, "GRANT USE AI FUNCTIONS ON ACCOUNT TO ROLE analyst")
    run_all(api, "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE PUBLIC")
    run_all(api, "GRANT DATABASE ROLE SNOWFLAKE.AI_FUNCTIONS_USER TO ROLE analyst")
    assert rows(ann, "SELECT SNOWFLAKE.CORTEX.COUNT_TOKENS('tiny', 'a') AS n")[0]["n"] > 0
    refused = error_of(create(ann, model="other"), 403, "not_authorized")
    assert "DATABASE ROLE SNOWFLAKE.CORTEX_USER is needed to fine-tune" in refused
    assert "there are" in sql_error(api, "GRANT DATABASE ROLE SNOWFLAKE.NONE TO ROLE analyst", 404, "not_found")
    assert "No base" in sql_error(api, "ALTER ACCOUNT SET CORTEX_MODELS_ALLOWLIST = 'x'", 404, "not_found").replace(
        "Unknown base", "No base"
    )
    run_all(api, "ALTER ACCOUNT UNSET CORTEX_MODELS_ALLOWLIST")
    assert rows(api, "SHOW PARAMETERS")[0]["value"] == "All"


def test_completions_by_http_alone_and_functions_one_by_one(api: TestClient, join: Join) -> None:  # noqa: F811
    rest, calls = join("REST"), join("CALLS", "BOB")
    run_all(api, "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE PUBLIC")
    run_all(api, "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_REST_API_USER TO ROLE rest")
    assert ask(rest, "tiny").status_code == 200
    assert rest.post("/api/v2/cortex/inference:complete", json={**ask_body(), "stream": False}).status_code == 200
    functions = ("COMPLETE('tiny', 'a')", "TRY_COMPLETE('tiny', 'a')", "COUNT_TOKENS('tiny', 'a')", "FINETUNE('SHOW')")
    statements = [f"SELECT SNOWFLAKE.CORTEX.{each}" for each in functions] + ["SELECT AI_COMPLETE('tiny', 'a')"]
    for statement in statements:
        assert "CORTEX_USER is needed to" in sql_error(rest, statement, 403, "not_authorized")
    run_all(rest, "SELECT 1 AS complete, 2 AS count_tokens")
    run_all(api, "REVOKE USE AI FUNCTIONS ON ACCOUNT FROM ROLE PUBLIC")
    run_all(api, "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE calls")
    named = ("COMPLETE", "TRY_COMPLETE", "COUNT_TOKENS", "FINETUNE", "AI_COMPLETE")
    for name, statement in zip(named, statements, strict=True):
        assert "USE AI FUNCTIONS ON ACCOUNT is needed" in sql_error(calls, statement, 403, "not_authorized")
        run_all(api, f"GRANT USE AI FUNCTION {name} ON ACCOUNT TO ROLE calls")
        run_all(calls, statement)
        for other in set(statements) - {statement}:
            sql_error(calls, other, 403, "not_authorized")
        run_all(api, f"REVOKE USE AI FUNCTION {name} ON ACCOUNT FROM ROLE calls")
    body = {"privileges": ["use ai function try_complete"], "kind": "ACCOUNT", "role": "calls"}
    assert api.post("/luthier/v1/grants", json=body).status_code == 200
    held = {row["privilege"] for row in rows(api, "SHOW GRANTS TO ROLE calls")}
    assert held == {"USAGE", "USE AI FUNCTION TRY_COMPLETE"}


def test_the_base_models_that_one_may_ask(api: TestClient, join: Join) -> None:  # noqa: F811
    ann, show = join("ANALYST"), "SHOW CORTEX BASE MODELS IN SNOWFLAKE.MODELS LIKE 'TIN_'"
    (row,) = rows(ann, show)
    assert (row["name"], row["lifecycle_status"], row["eol_date"]) == ("tiny", "GA", None)
    assert row["available_regions"] == '["local"]'
    assert rows(ann, "SHOW CORTEX BASE MODELS IN SCHEMA SNOWFLAKE.MODELS LIKE 'x%'") == []
    run_all(api, "ALTER ACCOUNT SET CORTEX_MODELS_ALLOWLIST = 'None'")
    assert rows(ann, show) == []
    refresh = "CALL SNOWFLAKE.MODELS.CORTEX_BASE_MODELS_REFRESH()"
    assert "Role ACCOUNTADMIN is needed" in sql_error(ann, refresh, 403, "not_authorized")
    assert rows(api, refresh) == [{"CORTEX_BASE_MODELS_REFRESH": "Models refreshed successfully."}]


def ask_body(model: str = "tiny") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize("header", ["Luthier-Role", "X-Snowflake-Role"])
def test_a_request_may_name_a_role_within_its_keys(api: TestClient, join: Join, header: str) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, "CREATE ROLE writer", "CREATE ROLE boss", "GRANT ROLE boss TO USER ann")
    run_all(api, "GRANT ROLE writer TO ROLE analyst")
    assert ann.get("/luthier/v1/whoami").json()["role"] == "ANALYST"
    assert ann.get("/luthier/v1/whoami", headers={header: "writer"}).json()["role"] == "WRITER"
    told = [
        error_of(ann.get("/luthier/v1/whoami", headers={header: role}), 403, "not_authorized").replace(role, "X")
        for role in ("ACCOUNTADMIN", "NOSUCHROLE", "BOSS")
    ]
    assert told[0] == told[1] == told[2], "roles of others are not told from what is not there"
    assert error_of(ann.post(CHAT, json=ask_body(), headers={header: "ACCOUNTADMIN"}), 403, "not_authorized")


def test_only_who_owns_may_grant(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    grant = "GRANT USAGE ON MODEL {} TO ROLE analyst"
    hidden = [sql_error(ann, grant.format(name), 404, "model_not_found") for name in ("tuned", "nothing")]
    assert hidden[0].replace("TUNED", "NOTHING") == hidden[1]
    run_all(api, *OPEN, grant.format("tuned"))
    assert "OWNERSHIP ON MODEL" in sql_error(ann, grant.format("tuned"), 403, "not_authorized")
    for statement in ("CREATE ROLE x", "CREATE USER x", "GRANT USAGE ON DATABASE luthier TO ROLE analyst"):
        assert "is needed to" in sql_error(ann, statement, 403, "not_authorized")
    for statement in ("DROP ROLE accountadmin", "GRANT ROLE accountadmin TO USER ann", "SHOW GRANTS TO USER admin"):
        assert sql_error(ann, statement, 404, "not_found").startswith("No ")
    run_all(api, "GRANT MANAGE GRANTS ON ACCOUNT TO ROLE analyst")
    run_all(ann, grant.format("tuned"))
    run_all(api, "CREATE ROLE deputy", "GRANT ROLE accountadmin TO ROLE deputy", "CREATE ROLE aide")
    run_all(api, "GRANT ROLE deputy TO ROLE aide")
    for role in ("accountadmin", "deputy", "aide"):
        assert "ACCOUNTADMIN" in sql_error(ann, f"GRANT ROLE {role} TO USER ann", 403, "not_authorized")
        assert "ACCOUNTADMIN" in sql_error(ann, f"GRANT ROLE {role} TO ROLE public", 403, "not_authorized")
    run_all(ann, "GRANT OWNERSHIP ON USER admin TO ROLE analyst")
    assert "last user" in sql_error(ann, "DROP USER admin", 409, "conflict")


def test_show_grants_as_snowflake_shows_them(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, *OPEN, "GRANT USAGE, READ ON MODEL tuned TO ROLE analyst")
    on = rows(api, "SHOW GRANTS ON MODEL tuned")
    assert list(on[0]) == SHOW
    told = [(row["privilege"], row["grantee_name"], row["grant_option"]) for row in on]
    assert told == [("OWNERSHIP", ADMIN.role, True), ("USAGE", "ANALYST", False), ("READ", "ANALYST", False)]
    to_role = rows(ann, "SHOW GRANTS TO ROLE analyst")
    assert [(row["privilege"], row["granted_on"], row["name"]) for row in to_role] == [
        ("USAGE", "DATABASE", "LUTHIER"),
        ("USAGE", "SCHEMA", "LUTHIER.PUBLIC"),
        ("USAGE", "MODEL", "LUTHIER.PUBLIC.TUNED"),
        ("READ", "MODEL", "LUTHIER.PUBLIC.TUNED"),
    ]
    assert [row["role"] for row in rows(ann, "SHOW GRANTS")] == ["ANALYST"]
    assert [row["grantee_name"] for row in rows(api, "SHOW GRANTS OF ROLE analyst")] == ["ANN"]
    run_all(api, "GRANT OWNERSHIP ON MODEL tuned TO ROLE analyst")
    assert rows(ann, "SHOW GRANTS ON MODEL tuned")[0]["grantee_name"] == "ANALYST"


def test_what_ends_with_a_role_and_with_a_user(api: TestClient, join: Join, registry: Registry) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, "GRANT OWNERSHIP ON TABLE faq TO ROLE analyst", *OPEN)
    assert len(rows(ann, "SELECT * FROM faq")) == 10
    run_all(api, "DROP ROLE analyst", "CREATE ROLE analyst")
    assert rows(api, "SHOW GRANTS TO ROLE analyst") == []
    assert rows(api, "SHOW GRANTS ON TABLE faq")[0]["grantee_name"] == ADMIN.role, "it passed to who dropped the role"
    run_all(api, "DROP USER ann")
    assert [user.name for user in registry.users.show(ADMIN)] == ["admin"]
    for statement in ("DROP ROLE public", "DROP ROLE accountadmin"):
        assert "belongs to every account" in sql_error(api, statement, 400, "invalid_parameter_value")
    assert "last user" in sql_error(api, "REVOKE ROLE accountadmin FROM USER admin", 409, "conflict")
    run_all(api, "DROP ROLE IF EXISTS nothing", "DROP USER IF EXISTS nothing")


def test_usage_is_ones_own_unless_one_may_monitor(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    assert ask(api, "tiny").status_code == ask(ann, "tiny").status_code == 200
    assert len(ann.get("/luthier/v1/usage/completions").json()["usage"]) == 1
    run_all(api, "GRANT MONITOR USAGE ON ACCOUNT TO ROLE analyst")
    assert len(ann.get("/luthier/v1/usage/completions").json()["usage"]) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "GRANT FLY ON MODEL tuned TO ROLE public",
        "GRANT SELECT ON MODEL tuned TO ROLE public",
        "GRANT OWNERSHIP ON FUTURE MODELS IN SCHEMA public TO ROLE public",
        "REVOKE OWNERSHIP ON MODEL tuned FROM ROLE public",
        "GRANT ROLE public TO USER admin",
        "GRANT USAGE ON MODEL tuned TO ROLE public WITH GRANT OPTION",
        "ALTER ACCOUNT SET NOTHING = 'x'",
    ],
)
def test_what_cannot_be_said(api: TestClient, statement: str) -> None:
    sql_error(api, statement, 400, "invalid_parameter_value")
