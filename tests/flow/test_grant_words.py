"""What Snowflake's own statements on grants may say beside what is granted."""

from starlette.testclient import TestClient

from tests.flow.conftest import error_of
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture


def test_who_passes_ownership_on_keeps_or_ends_what_was_granted(api: TestClient, faq: str) -> None:
    run_all(api, "CREATE ROLE keeper", "CREATE ROLE reader", "GRANT SELECT ON TABLE faq TO ROLE reader")
    run_all(api, "GRANT OWNERSHIP ON TABLE faq TO ROLE keeper COPY CURRENT GRANTS")
    assert _holders(api) == {"OWNERSHIP": "KEEPER", "SELECT": "READER"}
    run_all(api, "GRANT OWNERSHIP ON TABLE faq TO ROLE reader REVOKE CURRENT GRANTS")
    assert _holders(api) == {"OWNERSHIP": "READER"}


def test_revoke_says_cascade_or_restrict(api: TestClient) -> None:
    for how in ("CASCADE", "RESTRICT"):
        run_all(api, "GRANT USAGE ON SCHEMA public TO ROLE PUBLIC", f"REVOKE USAGE ON SCHEMA public FROM PUBLIC {how}")
        assert rows(api, "SHOW GRANTS TO ROLE PUBLIC")[0]["granted_on"] != "SCHEMA"


def test_future_grants_of_a_role(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, "GRANT USAGE ON FUTURE MODELS IN SCHEMA public TO ROLE analyst", "CREATE ROLE other")
    run_all(api, "GRANT SELECT ON FUTURE TABLES IN SCHEMA public TO ROLE other")
    (shown,) = rows(ann, "SHOW FUTURE GRANTS TO ROLE analyst")
    assert (shown["privilege"], shown["grant_on"], shown["grantee_name"]) == ("USAGE", "MODEL", "ANALYST")
    assert len(rows(api, "SHOW FUTURE GRANTS IN SCHEMA public LIMIT 1")) == 1
    assert rows(api, "SHOW FUTURE GRANTS IN DATABASE luthier") == []
    response = ann.post("/luthier/v1/sql", json={"statement": "SHOW FUTURE GRANTS TO ROLE other"})
    assert error_of(response, 404, "not_found").startswith("No role OTHER")


def test_who_has_a_database_role(api: TestClient) -> None:
    run_all(api, "CREATE ROLE r", "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE r")
    shown = rows(api, "SHOW GRANTS OF DATABASE ROLE SNOWFLAKE.CORTEX_USER")
    assert [(each["role"], each["grantee_name"]) for each in shown] == [("CORTEX_USER", "PUBLIC"), ("CORTEX_USER", "R")]
    assert rows(api, "SHOW GRANTS TO DATABASE ROLE SNOWFLAKE.CORTEX_USER") == []


def test_what_is_not_there_and_options_in_any_order(api: TestClient) -> None:
    run_all(api, "DROP MODEL IF EXISTS nosuch", "CREATE ROLE r", "CREATE USER u COMMENT = 'x' DEFAULT_ROLE = r")
    (user,) = rows(api, "SHOW USERS LIKE 'u'")
    assert (user["comment"], user["default_role"]) == ("x", "R")
    run_all(api, "CREATE SHARE one", "CREATE SHARE two")
    assert [each["name"] for each in rows(api, "SHOW SHARES LIKE 't%' LIMIT 5")] == ["TWO"]
    said = {"statement": "GRANT IMPORTED PRIVILEGES ON DATABASE SNOWFLAKE TO ROLE r"}
    refusal = error_of(api.post("/luthier/v1/sql", json=said), 400, "invalid_parameter_value")
    assert "`GRANT MONITOR USAGE ON ACCOUNT TO ROLE r` gives it" in refusal


def _holders(api: TestClient) -> dict[object, object]:
    return {each["privilege"]: each["grantee_name"] for each in rows(api, "SHOW GRANTS ON TABLE faq")}
