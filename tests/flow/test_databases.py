"""Databases and schemas by SQL, by HTTP and by the command line."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from luthier.platform.settings import Settings
from tests.flow.conftest import error_of, upload
from tests.flow.people import Join, join, rows, run_all  # noqa: F401 - a fixture
from tests.flow.test_cli import as_json, good, refused
from tests.flow.test_cli_access import Run, run  # noqa: F401 - a fixture

V1 = "/luthier/v1"


def test_by_sql(api: TestClient, join: Join) -> None:  # noqa: F811
    run_all(
        api, "CREATE DATABASE lab COMMENT = 'it''s new'", "CREATE DATABASE IF NOT EXISTS lab", "CREATE SCHEMA lab.work"
    )
    (lab, _) = rows(api, "SHOW DATABASES")
    assert (lab["name"], lab["owner"], lab["comment"], lab["is_default"]) == ("LAB", "ACCOUNTADMIN", "it's new", False)
    for statement in ("SHOW SCHEMAS IN DATABASE lab", "SHOW SCHEMAS IN lab"):
        assert [row["name"] for row in rows(api, statement)] == ["PUBLIC", "WORK"]
    assert len(rows(api, "SHOW SCHEMAS")) == len(rows(api, "SHOW SCHEMAS IN ACCOUNT")) == 3
    ann = join("ANALYST")
    assert rows(ann, "SHOW SCHEMAS") == rows(ann, "SHOW DATABASES") == []
    run_all(api, "GRANT USAGE, CREATE SCHEMA ON DATABASE lab TO ROLE analyst")
    run_all(ann, "CREATE SCHEMA lab.anns")
    assert [row["name"] for row in rows(ann, "SHOW SCHEMAS")] == ["ANNS"]
    run_all(ann, "DROP SCHEMA lab.anns", "DROP SCHEMA IF EXISTS lab.anns")


def test_a_table_goes_with_its_database(api: TestClient, settings: Settings) -> None:
    lost = {"name": "lab.public.mine", "filename": "a.csv"}
    assert error_of(api.post(f"{V1}/tables", params=lost, content=b"a\n1\n"), 404, "not_found").startswith(
        "No schema LAB"
    )
    run_all(api, "CREATE DATABASE lab")
    upload(api, "lab.public.mine", b"a\n1\n")
    assert rows(api, "SELECT * FROM lab.public.mine") == [{"a": 1}]
    files = set(Path(settings.home).rglob("*.parquet"))
    refusal = api.post(f"{V1}/sql", json={"statement": "DROP DATABASE lab"})
    assert "say CASCADE" in error_of(refusal, 409, "conflict")
    assert rows(api, "DROP DATABASE lab CASCADE") == [{"status": "LAB successfully dropped."}]
    assert len(files) - len(set(Path(settings.home).rglob("*.parquet"))) == 1
    assert api.get(f"{V1}/tables").json() == {"tables": []}


def test_an_odd_name_is_met_by_those_alone_who_say_it(api: TestClient, faq: str) -> None:
    upload(api, '"faq"', b"a\n1\n")
    assert len(rows(api, "SELECT * FROM faq")) == 10
    assert rows(api, 'SELECT * FROM "faq"') == [{"a": 1}]
    both = {"statement": 'SELECT * FROM faq, "faq"'}
    assert "by case or quotes alone" in error_of(api.post(f"{V1}/sql", json=both), 400, "invalid_parameter_value")
    assert rows(api, "SELECT table_name FROM information_schema.tables") == [{"table_name": "FAQ"}]
    for name in ("temp", '"System"', "memory", '"pg_catalog"'):
        refusal = api.post(f"{V1}/sql", json={"statement": f"CREATE DATABASE {name}"})
        assert "the platform's own names" in error_of(refusal, 400, "invalid_parameter_value")


def test_by_the_command_line(run: Run) -> None:  # noqa: F811
    assert good(run("databases", "create", "lab", "--comment", "new")) == "Database LAB.\n"
    assert as_json(run("schemas", "create", "lab.work", "--json"))["database"] == "LAB"
    assert [row["name"] for row in as_json(run("databases", "list", "--json"))] == ["LAB", "LUTHIER"]
    assert [row["name"] for row in as_json(run("schemas", "list", "--in", "lab", "--json"))] == ["PUBLIC", "WORK"]
    assert good(run("schemas", "drop", "lab.work")) == "Dropped schema LAB.WORK.\n"
    assert good(run("databases", "drop", "lab", "--cascade")) == "Dropped database LAB.\n"
    assert "No database LAB" in refused(run("databases", "drop", "lab"), 3)
    assert "it stays" in refused(run("schemas", "drop", "public"), 2)


@pytest.mark.parametrize(
    ("ends", "names"),
    [
        ("LIKE 'lab%'", ["LAB", "LAB2", "LABOUR"]),
        ("LIKE 'LAB_'", ["LAB2"]),
        ("LIKE 'LAB\\\\_'", []),
        ("IN ACCOUNT STARTS WITH 'LAB'", ["LAB", "LAB2", "LABOUR"]),
        ("STARTS WITH 'lab'", []),
        ("STARTS WITH 'L' LIMIT 2", ["LAB", "LAB2"]),
        ("LIKE '%' LIMIT 9 FROM 'LAB2'", ["LABOUR", "LUTHIER"]),
        ("LIMIT 1 FROM 'LAST'", []),
    ],
)
def test_the_ends_of_show(api: TestClient, ends: str, names: list[str]) -> None:
    run_all(api, "CREATE DATABASE lab", "CREATE DATABASE lab2", "CREATE DATABASE labour")
    assert [row["name"] for row in rows(api, f"SHOW DATABASES {ends}")] == names
    assert [row["name"] for row in rows(api, f"SHOW ROLES LIKE 'pub%'{' LIMIT 1' if names else ''}")] == ["PUBLIC"]


def test_a_place_that_show_does_not_name_is_home(api: TestClient, tuned: str) -> None:
    run_all(api, "CREATE DATABASE lab", "CREATE VIEW lab.public.v AS SELECT 1 AS a", "CREATE VIEW v AS SELECT 1 AS a")
    for place in ("DATABASE", "SCHEMA"):
        assert [row["name"] for row in rows(api, f"SHOW MODELS IN {place} LIMIT 5")] == ["TUNED"]
        (view,) = rows(api, f"SHOW VIEWS LIKE 'v' IN {place}")
        assert view["database_name"] == "LUTHIER"
    assert [row["database_name"] for row in rows(api, "SHOW SCHEMAS IN DATABASE")] == ["LUTHIER"]


@pytest.mark.parametrize("shown", ["MODELS", "VIEWS"])
def test_a_place_that_is_not_there_or_not_seen(api: TestClient, join: Join, shown: str) -> None:  # noqa: F811
    ann = join("ANALYST")
    run_all(api, "CREATE DATABASE lab")
    for place in ("DATABASE lab", "SCHEMA lab.public"):
        assert rows(api, f"SHOW {shown} IN {place}") == []
        said = error_of(ann.post(f"{V1}/sql", json={"statement": f"SHOW {shown} IN {place}"}), 404, "not_found")
        absent = place.replace("lab", "lost")
        lost = error_of(ann.post(f"{V1}/sql", json={"statement": f"SHOW {shown} IN {absent}"}), 404, "not_found")
        assert said.replace("LAB", "LOST") == lost
    grant = f"GRANT ALL ON ALL {shown} IN SCHEMA"
    for schema in ("lab.public", "lab.lost"):
        refusal = ann.post(f"{V1}/sql", json={"statement": f"{grant} {schema} TO ROLE public"})
        assert f"No schema {schema.upper()}" in error_of(refusal, 404, "not_found")
    assert "0 objects" in str(rows(api, f"{grant} lab.public TO ROLE public"))


def test_what_show_models_shows_of_a_place(api: TestClient, tuned: str) -> None:
    run_all(api, "CREATE SCHEMA work", "GRANT USAGE ON MODEL tuned TO ROLE public")
    for ends, num in (
        ("", 1),
        ("IN ACCOUNT", 1),
        ("IN SCHEMA public", 1),
        ("IN luthier.public", 1),
        ("IN SCHEMA work", 0),
        ("IN DATABASE luthier", 1),
        ("LIKE 'TUN%' IN DATABASE luthier LIMIT 5", 1),
        ("LIKE 'x%'", 0),
    ):
        assert len(rows(api, f"SHOW MODELS {ends}")) == num, ends
    run_all(api, "CREATE ROLE keeper", "GRANT OWNERSHIP ON MODEL tuned TO ROLE keeper")
    assert [row["owner"] for row in rows(api, "SHOW MODELS")] == ["KEEPER"]
    assert len(rows(api, "SHOW VERSIONS LIKE 'v_' IN MODEL tuned LIMIT 1")) == 1
    assert len(rows(api, "SHOW GRANTS ON MODEL tuned LIMIT 1")) == 1
    assert rows(api, "SHOW PARAMETERS LIKE 'nothing%' IN ACCOUNT") == []
