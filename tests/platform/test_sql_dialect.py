"""What passes the gate, what does not, and what Snowflake's SQL becomes."""

import json
import logging
from typing import Any

import pytest

from luthier.errors import InvalidSql
from luthier.platform.sql.sql_dialect import to_duckdb, training_query, trimmed

ATTACKS = [
    "",
    ";",
    "-- nothing",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE t",
    "SELECT 'unclosed",
    "INSERT INTO t VALUES (1)",
    "UPDATE t SET a = 1",
    "DELETE FROM t",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW x AS SELECT 1",
    "DROP TABLE t",
    "ALTER TABLE t ADD COLUMN a INT",
    "TRUNCATE TABLE t",
    "COPY t TO 'out.csv'",
    "COPY (SELECT 1) TO 'out.csv'",
    "EXPORT DATABASE 'x'",
    "ATTACH 'other.db' AS o",
    "ATTACH ':memory:' AS o",
    "DETACH o",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "RESET memory_limit",
    "PRAGMA database_list",
    "USE other",
    "CALL pragma_version()",
    "EXPLAIN SELECT 1",
    "DESCRIBE t",
    "SHOW TABLES",
    "EXECUTE IMMEDIATE 'SELECT 1'",
    "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
    "WITH d AS (DELETE FROM t) SELECT * FROM d",
    "WITH d AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM d",
    "WITH d AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM d",
    "WITH a AS (SELECT 1) DELETE FROM t",
    "SELECT a INTO b FROM t",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM READ_CSV('x.csv')",
    "SELECT * FROM read_csv_auto('x.csv')",
    "SELECT * FROM read_parquet(['a', 'b'])",
    "SELECT * FROM parquet_scan('a')",
    "SELECT * FROM parquet_metadata('a')",
    "SELECT * FROM read_json_auto('a')",
    "SELECT * FROM read_blob('a')",
    "SELECT * FROM \"read_text\"('/etc/passwd')",
    "SELECT * FROM main.read_text('/etc/passwd')",
    "SELECT * FROM TABLE(read_text('/etc/passwd'))",
    "SELECT * FROM LATERAL read_text('/etc/passwd')",
    "SELECT * FROM t, LATERAL (SELECT * FROM read_text(t.a))",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT 1 WHERE EXISTS (SELECT * FROM glob('/*'))",
    "WITH x AS (SELECT * FROM glob('*')) SELECT * FROM x",
    "SELECT 1 UNION ALL SELECT content FROM read_text('/etc/passwd')",
    "SELECT read_text('/etc/passwd')",
    "SELECT * FROM query('DROP TABLE t')",
    "SELECT * FROM query_table('t')",
    "SELECT * FROM json_execute_serialized_sql('x')",
    "SELECT * FROM sniff_csv('x')",
    "SELECT * FROM no_such_function('x')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'x.parquet'",
    'SELECT * FROM "/etc/passwd"',
    'SELECT * FROM "https://example.com/x.parquet"',
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM t JOIN 'x.csv' ON true",
    "SELECT * FROM @stage/x.csv",
    "SELECT * FROM a.b.c.d",
    "SELECT * FROM IDENTIFIER('t')",
    "SELECT * FROM TABLE('t')",
    "SELECT getenv('HOME')",
    "SELECT GETENV('HOME')",
    "SELECT getvariable('x')",
    "SELECT current_setting('allowed_paths')",
    "SELECT write_log('x')",
    "SELECT sleep_ms(100000)",
    "SELECT nextval('s')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM which_secret('s3://x', 's3')",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM pg_views",
    "SELECT * FROM pg_catalog.pg_views",
    "SELECT * FROM system.main.duckdb_views",
    "SELECT * FROM temp.main.t",
    "SELECT * FROM information_schema.views",
    "SELECT * FROM pragma_database_list",
    "SELECT __complete('m', 'p')",
    "SELECT system.main.__complete('m', 'p')",
    "SELECT \"__complete\"('m')",
    "SELECT ?",
    "SELECT :x",
    "SELECT $x",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
]


@pytest.mark.parametrize("sql", ATTACKS, ids=lambda sql: sql[:60])
def test_refused_in_one_line(sql: str) -> None:
    with pytest.raises(InvalidSql) as caught:
        to_duckdb(sql)
    assert "\n" not in caught.value.message
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("sql", "rendered"),
    [
        ("SELECT 1;", "SELECT 1"),
        ("VALUES (1, 2)", "VALUES (1, 2)"),
        ("(SELECT 1)", "(SELECT 1)"),
        ("SELECT a FROM t UNION SELECT b FROM u", "SELECT a FROM t UNION SELECT b FROM u"),
        ("WITH x AS (SELECT 1 AS a) SELECT a FROM x", "WITH x AS (SELECT 1 AS a) SELECT a FROM x"),
        ("SELECT IFF(a, 1, 2) FROM t", "SELECT CASE WHEN a THEN 1 ELSE 2 END FROM t"),
        ("SELECT a::string FROM t", "SELECT CAST(a AS TEXT) FROM t"),
        ("SELECT TOP 3 a FROM t", "SELECT a FROM t LIMIT 3"),
        (r"SELECT 'it\'s'", "SELECT 'it''s'"),
        ("SELECT $$it's$$", "SELECT 'it''s'"),
        ("SELECT 'DROP TABLE t; DELETE'", "SELECT 'DROP TABLE t; DELETE'"),
        ("SELECT NULL", "SELECT NULL"),
        ("SELECT {}", "SELECT JSON_OBJECT()"),
        ("SELECT OBJECT_CONSTRUCT('k', 1, 'z', v) FROM t", "SELECT JSON_OBJECT('k', 1, 'z', v) FROM t"),
        ("SELECT {'a': {'b': [1, TRUE]}}", "SELECT JSON_OBJECT('a', JSON_OBJECT('b', JSON_ARRAY(1, TRUE)))"),
        ("SELECT PARSE_JSON('{}')", "SELECT JSON('{}')"),
        ("SELECT x:a.b::string FROM t", "SELECT JSON_EXTRACT_STRING(x, '$.a.b') FROM t"),
        ("SELECT x:a FROM t", "SELECT JSON_EXTRACT(x, '$.a') FROM t"),
        ("SELECT LENGTH(AI_COMPLETE('m', p)) FROM t", "SELECT LENGTH(AI_COMPLETE('m', p)) FROM t"),
        (
            "SELECT PROMPT('a {0}', b, 1) FROM t",
            "SELECT JSON_OBJECT('template', 'a {0}', 'args', JSON_ARRAY(b, 1)) FROM t",
        ),
        (
            """SELECT ai_complete(model => 'm', prompt => "P") FROM (SELECT $1 AS "P" FROM  VALUES ('a' :: STRING))""",
            """SELECT AI_COMPLETE(model => 'm', prompt => "P") FROM """
            """(SELECT #1 AS "P" FROM (VALUES (CAST('a' AS TEXT))))""",
        ),
        ("SELECT * FROM information_schema.tables", "SELECT * FROM information_schema.tables"),
        ('SELECT "a/b"."c" FROM d.s."a/b"', 'SELECT "a/b"."c" FROM d.s."a/b"'),
    ],
)
def test_rendered(sql: str, rendered: str) -> None:
    assert to_duckdb(sql) == rendered


def test_a_type_literal_is_a_response_format() -> None:
    fields = "a STRING, b OBJECT(c NUMBER, d NUMBER(9, 2), e BOOLEAN), f ARRAY(FLOAT)"
    rendered = to_duckdb(f"SELECT AI_COMPLETE('m', p, response_format => type object({fields})) FROM t")
    before, literal, after = rendered.split("'")[0], rendered.split("JSON('")[1].split("')")[0], rendered[-7:]
    assert (before, after) == ("SELECT AI_COMPLETE(", " FROM t")
    inner = {"c": {"type": "integer"}, "d": {"type": "number"}, "e": {"type": "boolean"}}
    assert json.loads(literal) == {
        "type": "json",
        "schema": _closed(
            {"a": {"type": "string"}, "b": _closed(inner), "f": {"type": "array", "items": {"type": "number"}}}
        ),
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@pytest.mark.parametrize("literal", ["TYPE OBJECT()", "TYPE OBJECT(a DATE)", "TYPE OBJECT(a ARRAY)"])
def test_a_type_that_json_lacks(literal: str) -> None:
    with pytest.raises(InvalidSql, match="no counterpart in JSON"):
        to_duckdb(f"SELECT AI_COMPLETE('m', p, response_format => {literal}) FROM t")


@pytest.mark.parametrize("name", ["COMPLETE", "TRY_COMPLETE", "COUNT_TOKENS", "FINETUNE"])
def test_cortex_calls_stay_whole(name: str) -> None:
    sql = f"SELECT SNOWFLAKE.CORTEX.{name}('m', [{{'role':'user','content':'hi'}}], {{'temperature':0}}, NULL) FROM t"
    assert to_duckdb(sql) == (
        f"SELECT SNOWFLAKE.CORTEX.{name}('m', [JSON_OBJECT('role', 'user', 'content', 'hi')], "
        f"JSON_OBJECT('temperature', 0), NULL) FROM t"
    )


def test_finetune_query_argument_keeps_its_quotes() -> None:
    sql = r"SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE','a','b','SELECT a AS prompt FROM t WHERE x=\'y\'',NULL,NULL)"
    assert "'SELECT a AS prompt FROM t WHERE x=''y'''" in to_duckdb(sql)


@pytest.mark.parametrize(
    "sql",
    ["SELECT ARRAY_AGG(AI_COMPLETE('m', p)) FROM t", "SELECT SPLIT(SNOWFLAKE.CORTEX.COMPLETE('m', p), ',') FROM t"],
)
def test_a_paid_call_is_never_repeated(sql: str) -> None:
    with pytest.raises(InvalidSql, match="more than once"):
        to_duckdb(sql)


def test_statements_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(InvalidSql):
        to_duckdb("CALL secret_prompt_text()")
    assert "secret_prompt_text" not in caplog.text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        " SELECT 1 ;",
        "SELECT 1;\n ; ",
        "-- who\nSELECT 1 // done",
        "/* a */ /* 'b' **/SELECT 1; -- it's\n/**/",
    ],
)
def test_what_stands_around_a_statement(sql: str) -> None:
    assert trimmed(sql) == "SELECT 1"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '-- a'",
        "SELECT 'it\\'s; -- '",
        'SELECT "/* a */"',
        "SELECT $$ -- a",
        "SELECT 1 /* not closed; ",
        "SELECT 1 / 2 - 3",
        "SELECT /* within */ 1",
    ],
)
def test_what_stands_in_a_statement(sql: str) -> None:
    assert trimmed(f" {sql}") == sql


def test_training_query_wraps_the_gated_query() -> None:
    columns = {"prompt": '"prompt"', "completion": 'upper("Response")'}
    assert training_query("SELECT a AS prompt, b AS Response FROM t;", columns) == (
        'SELECT "prompt" AS prompt, upper("Response") AS completion '
        "FROM (SELECT a AS prompt, b AS Response FROM t) AS training_rows"
    )
    with pytest.raises(InvalidSql):
        training_query("DELETE FROM t", columns)
