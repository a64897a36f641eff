"""Statements against patterns: no text holds the gateway up, whatever is repeated in it, and LIKE is Snowflake's."""

import time

import pytest

from luthier.platform.keys import Endpoint
from luthier.platform.registry.paging import Named
from luthier.platform.sql.sql_dialect import trimmed
from luthier.serve.dialects.snowflake_sql import STATEMENTS
from luthier.serve.dialects.snowflake_statements import meaning

SIZE = 1 << 16
MOST_SECONDS = 2.0
"""Of the processor. A pattern that reads such a text once a character needs ten times as much, or hours."""
HEADS = (
    "",
    "GRANT ",
    "GRANT SELECT",
    "GRANT SELECT ON",
    "GRANT SELECT ON TABLE t TO ",
    "GRANT x TO y WITH ",
    "REVOKE APPLICATION ROLE SNOWFLAKE . CORTEX-MODEL-ROLE-tiny",
    "CREATE ",
    "CREATE VIEW v",
    "CREATE VIEW v (a",
    "CREATE VIEW v COMMENT = '",
    'CREATE USER "',
    "ALTER SHARE s ADD ACCOUNTS = a",
    "ALTER ACCOUNT SET p = '",
    "ALTER MODEL m VERSION v",
    "SHOW MODELS LIKE '",
    "SHOW GRANTS ON TABLE ",
    "SHOW SCHEMAS IN a",
)
REPEATED = (
    " ",
    ";",
    '"',
    "'",
    "(",
    ",",
    " , ",
    ".",
    "-",
    "/*",
    "a",
    "a ",
    '""',
    '"."',
    " ON ",
    " TO ",
    " WITH ",
    " AS ",
)


def seconds(run: object, *args: object) -> float:
    started = time.thread_time()
    run(*args)  # type: ignore[operator]
    return time.thread_time() - started


@pytest.mark.parametrize("head", HEADS)
def test_no_text_takes_long(head: str) -> None:
    for each in REPEATED:
        text = f"{head}{each * (SIZE // len(each))}!"
        assert seconds(trimmed, text) < MOST_SECONDS, each
        assert seconds(meaning, STATEMENTS, text) < MOST_SECONDS, each


@pytest.mark.parametrize(
    ("like", "fitting"),
    [
        ("", []),
        ("MY", ["MY"]),
        ("my%", ["MY", "MY_MODEL", "MY%", "MYMY"]),
        ("%my", ["MY", "MYMY"]),
        ("%y%y%", ["MYMY"]),
        ("M%M", []),
        ("%%", ["MY", "MY_MODEL", "MY%", "MYMY"]),
        ("__", ["MY"]),
        ("%_model", ["MY_MODEL"]),
        ("my\\_%", ["MY_MODEL"]),
        ("my\\%", ["MY%"]),
        ("m%_%_my", []),
        ("%m_%", ["MY", "MY_MODEL", "MY%", "MYMY"]),
        ("my\\", []),
    ],
)
def test_like(like: str, fitting: list[str]) -> None:
    names = ["MY", "MY_MODEL", "MY%", "MYMY"]
    assert [name for name in names if Named(like=like).fits(name)] == fitting


@pytest.mark.parametrize("like", ["%" * 20 + "!", "%a" * 20 + "b", "%_" * 40 + "b", "%a_" * 20 + "%b"])
def test_like_takes_nothing_back(like: str) -> None:
    """A pattern that does takes hours for these."""
    assert seconds(lambda: Named(like=like).fits("a" * 60)) < MOST_SECONDS


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("GRANT SELECT, CREATE  MODEL ,USAGE ON SCHEMA a.b TO ROLE c", "grant"),
        ("GRANT SELECT ON TABLE t TO ROLE r WITH GRANT\nOPTION;", "_no_grant_option"),
        ("grant all privileges on base model m to role r", "grant"),
        ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", "_unknown"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "_unknown"),
        ("CREATE VIEW v", "_unknown"),
        ("CREATE VIEW v SELECT 1", "_unknown"),
        ("CREATE VIEW v AS SELECT 1", "_create"),
        ("CREATE VIEW v COMMENT='it''s'AS SELECT 1", "_create"),
        ("CREATE TABLE t AS SELECT view FROM x", None),
        ("/* dbt */ GRANT ROLE r TO USER u; -- done", "_grant_role"),
        ("-- GRANT ROLE r TO USER u\nDROP VIEW v", "_drop"),
        ("DROP VIEW v /* ; GRANT ROLE r TO USER u", None),
        ("CREATE ROLE r COMMENT = 'it\\'s'", "_create_role"),
        ("CREATE ROLE r COMMENT = 'it\\'", None),
        ("CREATE TABLE view AS SELECT 1", None),
    ],
)
def test_what_answers(statement: str, answer: str | None) -> None:
    found = meaning(STATEMENTS, trimmed(statement))
    assert (found and found[1].answer.__name__) == answer


@pytest.mark.parametrize(
    ("statement", "needs"),
    [
        ("SHOW MODELS", (Endpoint.MODELS, False)),
        ("SHOW MODELS IN DATABASE d", (Endpoint.MODELS, False)),
        ("SHOW CORTEX BASE MODELS", (Endpoint.MODELS, False)),
        ("SHOW VERSIONS LIKE 'V1' IN MODEL m", (Endpoint.MODELS, False)),
        ("DROP MODEL m", (Endpoint.MODELS, True)),
        ("ALTER MODEL m SET DEFAULT_VERSION = V2", (Endpoint.MODELS, True)),
        ("SHOW GRANTS TO ROLE r", (Endpoint.ADMIN, False)),
        ("SHOW FUTURE GRANTS IN SCHEMA s", (Endpoint.ADMIN, False)),
        ("SHOW PARAMETERS", (Endpoint.ADMIN, False)),
        ("DESC SHARE s", (Endpoint.ADMIN, False)),
        ("DESCRIBE SHARE s", (Endpoint.ADMIN, False)),
        ("GRANT USAGE ON MODEL m TO ROLE r", (Endpoint.ADMIN, True)),
        ("REVOKE USAGE ON MODEL m FROM ROLE r", (Endpoint.ADMIN, True)),
        ("REVO\u212aE SELECT ON TABLE t FROM ROLE r", (Endpoint.ADMIN, True)),
        ("CREATE ROLE r", (Endpoint.ADMIN, True)),
        ("DROP SCHEMA s CASCADE", (Endpoint.ADMIN, True)),
        ("CREATE DATABASE d FROM SHARE a.s", (Endpoint.ADMIN, True)),
        ("CREATE OR REPLACE SECURE VIEW v AS SELECT 1", (Endpoint.TABLES, True)),
        ("CREATE VIEW model AS SELECT 1", (Endpoint.TABLES, True)),
        ("DROP VIEW users", (Endpoint.TABLES, True)),
        ("SHOW VIEWS LIKE 'model'", (Endpoint.TABLES, False)),
        ("DESCRIBE VIEW v", (Endpoint.TABLES, False)),
    ],
)
def test_what_a_statement_needs(statement: str, needs: tuple[Endpoint, bool]) -> None:
    found = meaning(STATEMENTS, statement)
    assert found
    assert (found[1].endpoint, found[1].is_change) == needs
