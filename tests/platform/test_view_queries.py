"""What a query reads by name, and the query that stands for a view."""

import pytest

from luthier.errors import InvalidSql
from luthier.platform.models import Opened, TableInfo, ViewInfo
from luthier.platform.names import parse_name
from luthier.platform.sql.view_queries import standing_for, tables_in, view_reads


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT 1 AS a", ""),
        ("SELECT * FROM t", "D.S.T"),
        ('SELECT * FROM "t", x."Y z".t, u.t', 'D.S."t" X."Y z".T D.U.T'),
        ("SELECT * FROM t a JOIN t b ON a.i = b.i", "D.S.T D.S.T"),
        ("SELECT (SELECT max(i) FROM u) AS m FROM t WHERE i IN (SELECT i FROM w) UNION SELECT 1 FROM x", "T U W X"),
        ("WITH a AS (SELECT * FROM t) SELECT * FROM a, A b", "T"),
        ('WITH a AS (SELECT * FROM t) SELECT * FROM "a", s.a', 'T D.S."a" D.S.A'),
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", "A"),
        ("WITH RECURSIVE a AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM a WHERE n < 3) SELECT * FROM a", ""),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT * FROM a) SELECT * FROM b", "B"),
        ("WITH a AS (WITH b AS (SELECT 1 AS i) SELECT * FROM b) SELECT * FROM a, b", "B"),
        ("SELECT * FROM (WITH a AS (SELECT 1 AS i) SELECT * FROM a) x, a", "A"),
        ("WITH a AS (SELECT 1 AS i) SELECT * FROM t WHERE i IN (SELECT i FROM a)", "T"),
        ("SELECT * FROM TABLE(GENERATOR(ROWCOUNT => 3))", ""),
        ("SELECT * FROM (t)", "T"),
        ("SELECT * FROM end", "END"),
    ],
)
def test_what_a_query_reads_by_name(query: str, names: str) -> None:
    expected = [each if "." in each else f"D.S.{each}" for each in names.replace("Y z", "Y_z").split()]
    assert sorted(each.dotted.replace("Y z", "Y_z") for each in tables_in(query, "D", "S")) == sorted(expected)


@pytest.mark.parametrize(
    "query", ["SELECT * FROM snowflake.account_usage.t", "SELECT * FROM information_schema.tables"]
)
def test_what_is_another_for_each_role_is_not_read(query: str) -> None:
    with pytest.raises(InvalidSql, match="another for each role"):
        view_reads(query, parse_name("v", "D", "S"))


@pytest.mark.parametrize(
    "call", ["SNOWFLAKE.CORTEX.COMPLETE('m', a)", "AI_COUNT_TOKENS('ai_complete', 'm', a)", "ai_x(a)"]
)
def test_what_is_billed_is_not_held(call: str) -> None:
    with pytest.raises(InvalidSql, match="A view holds no"):
        view_reads(f"SELECT {call} AS b FROM t", parse_name("v", "D", "S"))


def test_views_are_written_out_down_to_the_files() -> None:
    opened = Opened(
        asked=("D.S.V",),
        views={
            "D.S.V": view("SELECT w.a, x.a AS b FROM w JOIN x.w AS x ON D.S.W.a = x.a", ["a", "b"]),
            "D.S.W": view("WITH t AS (SELECT * FROM t) SELECT t.a FROM t SAMPLE (100)", ["a"]),
        },
        tables={"D.S.T": table("/one.parquet"), "D.X.W": table("/it's.parquet")},
    )
    query = standing_for("D.S.V", opened)
    assert query.count("READ_PARQUET('/one.parquet')") == query.count("READ_PARQUET('/it''s.parquet')") == 1
    assert "FROM t TABLESAMPLE" in query, "it is what WITH says"
    assert 'AS "W" JOIN' in query
    assert "D.S" not in query
    assert "LIMIT" not in query
    secure = opened.model_copy(update={"views": {**opened.views, "D.S.W": secured(opened.views["D.S.W"])}})
    assert standing_for("D.S.V", secure).count(f"LIMIT {2**63 - 1}") == 1


def view(query: str, columns: list[str]) -> ViewInfo:
    fields = {"name": "v", "owner": "u", "role": "r", "reads": [], "created_on": 1}
    return ViewInfo(**fields, query=query, gives=columns, columns=columns)


def secured(info: ViewInfo) -> ViewInfo:
    return info.model_copy(update={"is_secure": True})


def table(path: str) -> TableInfo:
    return TableInfo(name="t", owner="u", path=path, num_rows=1, columns=["a"], created_on=1)
