"""Views by SQL: made, read with their owner's rights, broken by what goes beneath them."""

import pytest
from starlette.testclient import TestClient

from luthier.platform.registry.registry import Registry
from luthier.platform.registry.view_rows import MAX_DEPTH, MAX_READS
from tests.flow.conftest import create, error_of, upload
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture

SQL = "/luthier/v1/sql"
OPEN = ("GRANT USAGE ON DATABASE luthier TO ROLE analyst", "GRANT USAGE ON SCHEMA luthier.public TO ROLE analyst")


def refused(api: TestClient, statement: str, status: int = 422, code: str = "sql_compilation_error") -> str:
    return error_of(api.post(SQL, json={"statement": statement}), status, code)


def names(api: TestClient, statement: str = "SHOW VIEWS") -> list[object]:
    return [row["name"] for row in rows(api, statement)]


@pytest.fixture
def ann(api: TestClient, faq: str, join: Join) -> TestClient:  # noqa: F811
    """May read the view `asked` and not the table beneath."""
    analyst = join("ANALYST")
    run_all(api, *OPEN, "CREATE VIEW asked AS SELECT question FROM faq WHERE question < 'question 3'")
    run_all(api, "GRANT SELECT ON VIEW asked TO ROLE analyst")
    return analyst


def test_a_view_is_made_shown_described_and_dropped(api: TestClient, faq: str) -> None:
    made = "create view V (q, \"An A\") comment = 'it''s new' as select question, answer from faq"
    assert rows(api, made) == [{"status": "View V successfully created."}]
    (shown,) = rows(api, "SHOW VIEWS")
    assert shown.pop("created_on")
    assert shown == {
        "name": "V",
        "reserved": "",
        "database_name": "LUTHIER",
        "schema_name": "PUBLIC",
        "owner": "ACCOUNTADMIN",
        "comment": "it's new",
        "text": "CREATE VIEW LUTHIER.PUBLIC.V (q, \"An A\") COMMENT = 'it''s new' AS select question, answer from faq",
        "is_secure": False,
        "is_materialized": False,
        "owner_role_type": "ROLE",
        "change_tracking": "OFF",
    }
    assert rows(api, 'SELECT q, "An A" AS a FROM v ORDER BY q LIMIT 1') == [{"q": "question 0", "a": "answer 0"}]
    described = rows(api, "DESCRIBE VIEW v")
    assert [(row["name"], row["type"], row["kind"]) for row in described] == [
        ("q", "VARCHAR(16777216)", "COLUMN"),
        ("An A", "VARCHAR(16777216)", "COLUMN"),
    ]
    assert rows(api, "DESC TABLE v") == described
    assert [row["name"] for row in rows(api, "DESC TABLE faq")] == ["question", "answer"]
    assert rows(api, "DROP VIEW v") == [{"status": "V successfully dropped."}]
    assert rows(api, "DROP VIEW IF EXISTS v") == [{"status": "Drop statement executed successfully."}]
    assert "No view LUTHIER.PUBLIC.v" in refused(api, "DROP VIEW v", 404, "not_found")
    assert "There is no table v" in refused(api, "SELECT * FROM v")


def test_one_name_one_object(api: TestClient, faq: str) -> None:
    run_all(api, "CREATE VIEW v AS SELECT 1 AS one", "GRANT SELECT ON VIEW v TO ROLE public")
    assert "Object 'LUTHIER.PUBLIC.V' already exists." in refused(
        api, "CREATE VIEW v AS SELECT 2 AS two", 409, "conflict"
    )
    kept = rows(api, "CREATE VIEW IF NOT EXISTS v AS SELECT 2 AS two")
    assert kept == [{"status": "V already exists, statement succeeded."}]
    assert rows(api, "SELECT * FROM v") == [{"one": 1}]
    run_all(api, "CREATE OR REPLACE VIEW v AS SELECT 2 AS two")
    assert rows(api, "SELECT * FROM v") == [{"two": 2}]
    assert [row["privilege"] for row in rows(api, "SHOW GRANTS ON VIEW v")] == ["OWNERSHIP"], (
        "a new one begins with none"
    )
    for verb in ("CREATE", "CREATE OR REPLACE"):
        told = refused(api, f"{verb} VIEW faq AS SELECT 1 AS one", 409, "conflict")
        assert "Object 'LUTHIER.PUBLIC.FAQ' already exists as TABLE." in told
    for replace in ("false", "true"):
        params = {"name": "v", "filename": "a.csv", "replace": replace}
        response = api.post("/luthier/v1/tables", params=params, content=b"a\n1\n")
        assert "Object 'LUTHIER.PUBLIC.V' already exists as VIEW." in error_of(response, 409, "conflict")
    assert "do not go together" in refused(
        api, "CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1 AS a", 400, "invalid_parameter_value"
    )


def test_names_are_those_of_the_views_own_schema(api: TestClient, faq: str) -> None:
    run_all(api, "CREATE SCHEMA work")
    upload(api, "work.faq", b"question\nhere\n")
    run_all(api, "CREATE VIEW work.v AS SELECT faq.question FROM faq", "CREATE VIEW v AS SELECT * FROM work.v")
    assert rows(api, "SELECT * FROM v") == rows(api, "SELECT * FROM luthier.work.v") == [{"question": "here"}]
    assert names(api, "SHOW VIEWS IN SCHEMA work") == ["V"]
    assert names(api, "SHOW VIEWS LIKE 'v' IN DATABASE luthier") == ["V", "V"]
    assert names(api, "SHOW VIEWS STARTS WITH 'x'") == []
    assert len(names(api, "SHOW VIEWS LIMIT 1")) == 1


def test_who_reads_a_view_needs_nothing_beneath_it(api: TestClient, ann: TestClient) -> None:
    assert len(rows(ann, "SELECT * FROM asked")) == 3
    assert "There is no table faq" in refused(ann, "SELECT * FROM faq")
    assert "There is no table faq" in refused(ann, "SELECT a.* FROM asked a JOIN faq f ON f.question = a.question")
    assert [row["table_name"] for row in rows(ann, "SELECT table_name FROM information_schema.tables")] == []
    assert "Close names: LUTHIER.PUBLIC.ASKED." in refused(ann, "SELECT * FROM aksed")
    run_all(api, "REVOKE SELECT ON VIEW asked FROM ROLE analyst")
    assert "There is no table asked that you can read. Tables: none yet." in refused(ann, "SELECT * FROM asked")
    assert names(ann) == []


def test_what_is_beneath_a_view_is_no_way_to_it(api: TestClient, ann: TestClient) -> None:
    """A view that is read through another one is not opened by its name."""
    run_all(api, "CREATE VIEW outer_one AS SELECT * FROM asked", "REVOKE SELECT ON VIEW asked FROM ROLE analyst")
    run_all(api, "GRANT SELECT ON VIEW outer_one TO ROLE analyst")
    assert len(rows(ann, "SELECT * FROM outer_one")) == 3
    assert "There is no table asked" in refused(ann, "SELECT * FROM outer_one, asked")


def test_the_owners_rights_count_at_each_read(api: TestClient, faq: str, join: Join) -> None:  # noqa: F811
    bob, ann = join("MAKER", "BOB"), join("ANALYST")
    run_all(api, *OPEN, *(each.replace("analyst", "maker") for each in OPEN))
    assert "CREATE VIEW ON SCHEMA LUTHIER.PUBLIC is needed to create a view there" in refused(
        bob, "CREATE VIEW bobs AS SELECT 1 AS a", 403, "not_authorized"
    )
    run_all(api, "GRANT CREATE VIEW ON SCHEMA public TO ROLE maker")
    assert "Object 'LUTHIER.PUBLIC.FAQ' does not" in refused(bob, "CREATE VIEW bobs AS SELECT * FROM faq")
    run_all(api, "GRANT SELECT ON TABLE faq TO ROLE maker")
    run_all(bob, "CREATE VIEW bobs AS SELECT * FROM faq", "GRANT SELECT ON VIEW bobs TO ROLE analyst")
    assert len(rows(ann, "SELECT * FROM bobs")) == 10
    run_all(api, "REVOKE SELECT ON TABLE faq FROM ROLE maker")
    lost = "Failure during expansion of view LUTHIER.PUBLIC.bobs: Object 'LUTHIER.PUBLIC.FAQ' does not exist or not"
    for reader in (bob, ann, api):
        assert lost in refused(reader, "SELECT * FROM bobs")
    run_all(api, "GRANT OWNERSHIP ON VIEW bobs TO ROLE accountadmin")
    assert len(rows(ann, "SELECT * FROM bobs")) == 10, "its owner may read the table again"
    assert "OWNERSHIP ON VIEW" in refused(ann, "DROP VIEW bobs", 403, "not_authorized")
    api.delete("/luthier/v1/tables/faq")
    assert lost in refused(ann, "SELECT * FROM bobs")
    upload(api, "faq", b"answer,question,more\na,q,m\n")
    assert rows(ann, "SELECT * FROM bobs") == [{"question": "q", "answer": "a"}], "the columns it was made with"
    upload(api, "faq", b"question\nq\n", replace=True)
    assert "Failure during expansion of view LUTHIER.PUBLIC.BOBS" in refused(ann, "SELECT * FROM bobs")


def test_nobody_lends_the_next_owners_rights(api: TestClient, faq: str, join: Join) -> None:  # noqa: F811
    ann, give = join("ANALYST"), "GRANT OWNERSHIP ON VIEW v TO ROLE accountadmin"
    run_all(
        api, *OPEN, "GRANT CREATE VIEW ON SCHEMA public TO ROLE analyst", "GRANT SELECT ON TABLE faq TO ROLE analyst"
    )
    run_all(ann, "CREATE VIEW v AS SELECT * FROM faq", "GRANT SELECT ON VIEW v TO ROLE analyst")
    assert "There are grants on VIEW LUTHIER.PUBLIC.V" in refused(ann, give, 409, "conflict")
    run_all(ann, "REVOKE SELECT ON VIEW v FROM ROLE analyst", give)
    assert "There is no table v" in refused(ann, "SELECT * FROM v")
    run_all(api, "GRANT SELECT ON VIEW v TO ROLE analyst", "GRANT OWNERSHIP ON VIEW v TO ROLE analyst", give)
    assert len(rows(ann, "SELECT * FROM v")) == 10, "as who may grant everything wants it"


def test_views_over_views_form_no_ring_and_no_tower(api: TestClient, faq: str) -> None:
    run_all(api, "CREATE VIEW v0 AS SELECT question FROM faq", "CREATE VIEW v1 AS SELECT * FROM v0")
    for ring in ("v0", "v1"):
        told = refused(api, f"CREATE OR REPLACE VIEW v0 AS SELECT * FROM {ring}", 400, "invalid_parameter_value")
        assert told == "View definition for 'LUTHIER.PUBLIC.V0' refers to view being defined."
    run_all(api, *(f"CREATE VIEW v{at} AS SELECT * FROM v{at - 1}" for at in range(2, MAX_DEPTH)))
    assert len(rows(api, f"SELECT * FROM v{MAX_DEPTH - 1}")) == 10
    told = refused(api, f"CREATE VIEW too_high AS SELECT * FROM v{MAX_DEPTH - 1}")
    assert f"more than {MAX_DEPTH} deep" in told
    run_all(api, "CREATE VIEW w0 AS SELECT question FROM faq")
    for at in range(1, 9):
        run_all(api, f"CREATE VIEW w{at} AS SELECT a.question FROM w{at - 1} a JOIN w{at - 1} b USING (question)")
    told = refused(api, "CREATE VIEW too_wide AS SELECT a.question FROM w8 a, w0 b")
    assert f"reads 257 tables, views beneath it counted: at most {MAX_READS}" in told
    run_all(
        api, "CREATE VIEW two AS SELECT a.question FROM v0 a, faq b", "CREATE OR REPLACE VIEW v0 AS SELECT * FROM w8"
    )
    assert "reads 257 tables" in refused(api, "SELECT * FROM two")
    assert len(rows(api, "SELECT * FROM v1")) == 10


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', question) AS a FROM faq", "A view holds no COMPLETE"),
        ("SELECT AI_COMPLETE('tiny', 'a') AS a", "A view holds no AI_COMPLETE"),
        ("SELECT SNOWFLAKE.CORTEX.FINETUNE('SHOW') AS a", "A view holds no FINETUNE"),
        ("SELECT * FROM SNOWFLAKE.ACCOUNT_USAGE.METERING_HISTORY", "another for each role"),
        ("SELECT * FROM information_schema.tables", "another for each role"),
        ("SELECT * FROM read_csv('/etc/passwd')", "not allowed here"),
        ("DELETE FROM faq", "Only a query"),
        ("SELECT 1 AS a; SELECT 2 AS a", "One statement"),
        ("SELECT * FROM nowhere", "Object 'LUTHIER.PUBLIC.NOWHERE' does not exist or not authorized"),
        ("SELECT nothing FROM faq", "nothing"),
        ('SELECT * FROM "faq"', "Object 'LUTHIER.PUBLIC.\"faq\"' does not exist or not authorized"),
        ("SELECT * FROM faq AT(OFFSET => -60)", "In a view FAQ is read as it is now, without WHEN."),
    ],
)
def test_what_may_not_stand_in_a_view(api: TestClient, faq: str, query: str, words: str) -> None:
    assert words in refused(api, f"CREATE VIEW v AS {query}")
    assert names(api) == []


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("VIEW v (a)", "declared 1 column(s), but view query produces 2 column(s)"),
        ("VIEW v (a, A)", "duplicate column name 'A'"),
        ("VIEW lost.v", "No schema LUTHIER.LOST"),
        ("MATERIALIZED VIEW v", "CREATE VIEW is read as"),
        ("VIEW v COPY GRANTS", "CREATE VIEW is read as"),
    ],
)
def test_what_create_refuses(api: TestClient, faq: str, head: str, words: str) -> None:
    response = api.post(SQL, json={"statement": f"CREATE {head} AS SELECT * FROM faq"})
    assert response.status_code in (400, 404, 422)
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"columns": ["a", ""]}, "empty"),
        ({"columns": ["a", "b\0"]}, "NUL"),
        ({"comment": "\0"}, "NUL"),
        ({"comment": "c" * 65_536}, "at most 65,536 characters"),
        ({"query": f"SELECT '{'c' * 65_536}' AS a"}, "at most 65,536 characters"),
        ({"columns": []}, "columns"),
        ({"if_there": "drop"}, "if_there"),
        ({"name": "a.b.c.d"}, "at most database.schema.name"),
    ],
)
def test_what_http_refuses(api: TestClient, faq: str, body: dict[str, object], words: str) -> None:
    response = api.post("/luthier/v1/views", json={"name": "v", "query": "SELECT * FROM faq", **body})
    assert words in error_of(response, 400, "invalid_parameter_value")
    assert api.get("/luthier/v1/views").json() == {"views": []}


def test_pages_by_http_and_what_the_audit_keeps(api: TestClient, faq: str) -> None:
    for name in ("b", "a", "c"):
        made = api.post("/luthier/v1/views", json={"name": name, "query": "SELECT * FROM faq"})
        assert (made.status_code, made.json()["is_new"]) == (201, True)
    kept = api.post("/luthier/v1/views", json={"name": "c", "query": "SELECT 1 AS a", "if_there": "keep"})
    assert kept.json() == {"name": "c", "is_new": False}
    first = api.get("/luthier/v1/views", params={"limit": 2}).json()
    assert [view["name"] for view in first["views"]] == ["LUTHIER.PUBLIC.a", "LUTHIER.PUBLIC.b"]
    rest = api.get("/luthier/v1/views", params={"limit": 2, "after": first["next"]}).json()
    assert ([view["name"] for view in rest["views"]], "next" in rest) == (["LUTHIER.PUBLIC.c"], False)
    assert api.delete("/luthier/v1/views/a").json() == {"name": "LUTHIER.PUBLIC.a"}
    run_all(api, "DROP VIEW b")
    told = [(row["action"], row["object_name"]) for row in api.get("/luthier/v1/audit").json()["audit"]]
    assert told[:3] == [("sql", "DROP VIEW b"), ("drop_view", "a"), ("make_view", "c")]


def test_a_secure_view_tells_nothing_of_its_query(api: TestClient, faq: str, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    upload(api, "who", b"question,secret\nquestion 1,2021-02-03\nquestion 99,hidden\n")
    query = "SELECT w.question, w.secret FROM who w JOIN faq USING (question)"
    run_all(api, *OPEN, f"CREATE VIEW plain AS {query}", f"CREATE SECURE VIEW safe AS {query}")
    run_all(api, "CREATE VIEW around AS SELECT * FROM safe")
    run_all(api, *(f"GRANT SELECT ON VIEW {name} TO ROLE analyst" for name in ("plain", "safe", "around")))
    asked = "SELECT question FROM {} WHERE CAST(secret AS DATE) > '2020-01-01'"
    assert "hidden" in refused(ann, asked.format("plain")), "an error tells of a row that the view leaves out"
    assert rows(ann, asked.format("safe")) == [{"question": "question 1"}]
    texts = {row["name"]: (row["is_secure"], row["text"]) for row in rows(ann, "SHOW VIEWS")}
    assert texts["SAFE"] == (True, "")
    assert query in str(texts["PLAIN"][1])
    assert query in str(rows(api, "SHOW VIEWS LIKE 'safe'")[0]["text"])
    (told,) = [view for view in ann.get("/luthier/v1/views").json()["views"] if view["is_secure"]]
    assert (told["query"], told["reads"], told["columns"]) == ("", [], ["question", "secret"])
    upload(api, "who", b"question\nq\n", replace=True)
    for name in ("safe", "around"):
        assert "its query does not fit what it reads" in refused(ann, f"SELECT * FROM {name}")
    api.delete("/luthier/v1/tables/who")
    assert "What it reads does not exist or not authorized" in refused(ann, "SELECT * FROM safe")
    assert "'LUTHIER.PUBLIC.WHO' does not exist" in refused(api, "SELECT * FROM safe")


def test_a_job_is_trained_on_a_view(api: TestClient, ann: TestClient) -> None:
    run_all(api, "CREATE OR REPLACE VIEW pairs AS SELECT question AS prompt, answer AS completion FROM faq")
    run_all(api, "GRANT SELECT ON VIEW pairs TO ROLE analyst", "GRANT CREATE MODEL ON SCHEMA public TO ROLE analyst")
    query = "SELECT * FROM pairs"
    report = create(ann, training_data=query, validation_data=f"{query} LIMIT 2", dry_run=True).json()
    assert (report["rows"], report["validation_rows"]) == (10, 2)
    job = create(ann, training_data=query)
    assert job.status_code == 201, job.text
    run_all(api, "REVOKE SELECT ON VIEW pairs FROM ROLE analyst")
    assert "There is no table pairs" in error_of(
        create(ann, model="next", training_data=query), 422, "sql_compilation_error"
    )


def test_grants_on_views(api: TestClient, faq: str, join: Join) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, *OPEN, "CREATE VIEW a AS SELECT * FROM faq")
    answer = rows(api, "GRANT SELECT ON ALL VIEWS IN SCHEMA public TO ROLE analyst")
    assert answer == [{"status": "Statement executed successfully. 1 objects affected."}]
    run_all(api, "GRANT SELECT ON FUTURE VIEWS IN SCHEMA public TO ROLE analyst", "CREATE VIEW b AS SELECT * FROM a")
    assert names(ann) == ["A", "B"]
    (future,) = rows(api, "SHOW FUTURE GRANTS IN SCHEMA public")
    assert (future["grant_on"], future["name"]) == ("VIEW", "LUTHIER.PUBLIC.<VIEW>")
    held = [(row["privilege"], row["granted_on"], row["name"]) for row in rows(api, "SHOW GRANTS TO ROLE analyst")]
    assert held[-2:] == [("SELECT", "VIEW", "LUTHIER.PUBLIC.A"), ("SELECT", "VIEW", "LUTHIER.PUBLIC.B")]
    told = refused(api, "GRANT USAGE ON VIEW a TO ROLE analyst", 400, "invalid_parameter_value")
    assert "USAGE is no privilege on a VIEW" in told
    run_all(api, "CREATE SHARE s", "GRANT USAGE ON DATABASE luthier TO SHARE s")
    assert "is not shared" in refused(api, "GRANT SELECT ON VIEW a TO SHARE s", 400, "invalid_parameter_value")


def test_a_view_goes_with_its_schema_and_with_its_owner_to_another(
    api: TestClient,
    registry: Registry,
    faq: str,
    join: Join,  # noqa: F811
) -> None:
    bob = join("MAKER", "BOB")
    run_all(api, "CREATE SCHEMA work", "GRANT USAGE ON DATABASE luthier TO ROLE maker")
    run_all(api, "GRANT USAGE, CREATE VIEW ON SCHEMA work TO ROLE maker")
    run_all(bob, "CREATE VIEW work.v AS SELECT 1 AS one")
    run_all(api, "DROP ROLE maker")
    assert [row["owner"] for row in rows(api, "SHOW VIEWS")] == ["ACCOUNTADMIN"]
    assert "is not empty" in refused(api, "DROP SCHEMA work", 409, "conflict")
    run_all(api, "DROP SCHEMA work CASCADE")
    assert names(api) == []
