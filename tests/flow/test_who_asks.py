"""SQL's functions of the session: each says what it says of the caller, in a view of who reads it."""

import json

import pytest
from starlette.testclient import TestClient

from tests.flow.conftest import error_of, upload
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture

OPEN = (
    "GRANT USAGE ON DATABASE luthier TO ROLE analyst",
    "GRANT USAGE ON SCHEMA public TO ROLE analyst",
    "GRANT SELECT ON VIEW own TO ROLE analyst",
)


def test_what_each_says(api: TestClient, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, "CREATE ROLE reader", "CREATE ROLE other", "GRANT ROLE reader TO ROLE analyst")
    run_all(api, "GRANT ROLE other TO USER ann")
    (said,) = rows(
        ann, "SELECT CURRENT_USER(), CURRENT_USER AS me, CURRENT_ROLE() AS role, CURRENT_ACCOUNT() AS account"
    )
    assert said == {"CURRENT_USER()": "ANN", "me": "ANN", "role": "ANALYST", "account": "main"}
    (said,) = rows(ann, "SELECT CURRENT_REGION() AS region, CURRENT_DATABASE() AS d, CURRENT_SCHEMA() AS s")
    assert said == {"region": "local", "d": "LUTHIER", "s": "PUBLIC"}
    (said,) = rows(ann, "SELECT CURRENT_AVAILABLE_ROLES() AS roles")
    assert json.loads(str(said["roles"])) == ["ANALYST", "OTHER", "PUBLIC", "READER"]
    asked = (
        "SELECT r, IS_ROLE_IN_SESSION(r) AS has_it FROM (VALUES ('ANALYST'), ('READER'), ('OTHER'), (NULL)) AS t (r)"
    )
    assert [row["has_it"] for row in rows(ann, asked)] == [True, True, False, None]
    assert rows(ann, "SELECT 1 AS a WHERE CURRENT_USER() = 'ANN' GROUP BY CURRENT_USER() ORDER BY CURRENT_ROLE()")


def test_a_view_says_who_reads_it(api: TestClient, join: Join) -> None:  # noqa: F811
    upload(api, "work", b"who,what\nANN,hers\nadmin,his\n")
    run_all(api, "CREATE SECURE VIEW own AS SELECT what, LOWER(CURRENT_USER()) FROM work WHERE who = CURRENT_USER()")
    ann = join("ANALYST")
    run_all(api, *OPEN)
    assert rows(ann, "SELECT * FROM own") == [{"what": "hers", "LOWER(CURRENT_USER())": "ann"}]
    assert rows(api, "SELECT * FROM own") == [{"what": "his", "LOWER(CURRENT_USER())": "admin"}]


@pytest.mark.parametrize("call", ["SESSION_USER()", "USER()", "VERSION()", "CURRENT_VERSION()", "CURRENT_QUERY()"])
def test_what_only_the_engine_could_say_is_refused(api: TestClient, call: str) -> None:
    assert _refused(api, call) == f"The function {call[:-2]} is not allowed here."


def test_their_arguments(api: TestClient) -> None:
    for call, num in (("CURRENT_USER(1)", 0), ("IS_ROLE_IN_SESSION()", 1)):
        assert f"takes {num} argument(s), and here" in _refused(api, call)


def _refused(api: TestClient, call: str) -> str:
    response = api.post("/luthier/v1/sql", json={"statement": f"SELECT {call}"})
    return error_of(response, 422, "sql_compilation_error")
