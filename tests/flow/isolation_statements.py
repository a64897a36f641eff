"""What the isolation suite tries in SQL: lines of every kind of statement, view and function, by the code's own tables.

`{model}`, `{job}`, ... stand for the first account's objects, or for ones not there. They are asked in this order by
their owner, who is answered each.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from luthier.platform.securables import GRANTABLE, ObjectKind
from luthier.platform.sql.sql_dialect import _OPEN_INFORMATION_SCHEMA, COUNT_DETAILED
from luthier.serve import dialects
from luthier.serve.dialects.account_usage import FILES
from luthier.serve.dialects.snowflake_access import KINDS, KINDS_IN_SCHEMA
from luthier.serve.dialects.usage_views import VIEWS

ACCOUNT_USAGE = "SNOWFLAKE.ACCOUNT_USAGE"
OWNED_ALONE = ("ROLE", "USER", "SHARE")
"""Kinds without another privilege than OWNERSHIP, which is passed on and not revoked."""
OBJECTS = {
    "DATABASE": "{place}",
    "SCHEMA": "{place}.{place}",
    "TABLE": "{table}",
    "VIEW": "{view}",
    "MODEL": "{model}",
    "ROLE": "{role}",
    "USER": "{user}",
    "SHARE": "{share}",
}


def views() -> list[str]:
    """Of ACCOUNT_USAGE: those of the usage, and what other files of the dialects name."""
    text = "".join(file.read_text() for file in sorted(Path(dialects.__path__[0]).glob("*.py")))
    return sorted({*VIEWS, *FILES, *re.findall(rf"{re.escape(ACCOUNT_USAGE)}\.(\w+)", text)})


def _granted(verb: str, kinds: Iterable[str], grantee: str) -> list[str]:
    to = {"GRANT": "TO", "REVOKE": "FROM"}[verb]
    return [f"{verb} {GRANTABLE[ObjectKind(kind)][0]} ON {kind} {OBJECTS[kind]} {to} {grantee}" for kind in kinds]


def _in_schema(scope: str, grantee: str, schema: str = "{place}.{place}", kinds: str = KINDS_IN_SCHEMA) -> list[str]:
    return [
        f"{verb} {GRANTABLE[ObjectKind(kind[:-1])][0]} ON {scope} {kind} IN SCHEMA {schema} {to} {grantee}"
        for verb, to in (("GRANT", "TO"), ("REVOKE", "FROM"))
        for kind in kinds.split("|")
    ]


TABLES = ("{table}", "{view}", "luthier.public.{table}", "{place}.{place}.{table}")
LISTS = (
    f"SELECT * FROM {ACCOUNT_USAGE}.LUTHIER_AUDIT_HISTORY",  # before it tells what else was asked
    *(f"SELECT * FROM {ACCOUNT_USAGE}.{view}" for view in views()),
    *(f"SELECT * FROM information_schema.{name}" for name in sorted(_OPEN_INFORMATION_SCHEMA)),
    "SELECT SNOWFLAKE.CORTEX.FINETUNE('SHOW')",
    "SHOW MODELS",
    "SHOW MODELS LIKE 'my%' IN DATABASE luthier STARTS WITH 'MY' LIMIT 9",
    "SHOW MODELS IN SCHEMA luthier.public",
    "SHOW VIEWS LIKE 'my%' IN DATABASE luthier STARTS WITH 'MY' LIMIT 9",
    "SHOW VIEWS IN SCHEMA luthier.public",
    "SHOW ROLES LIKE 'my%' STARTS WITH 'MY' LIMIT 9",
    "SHOW USERS LIKE 'my%' STARTS WITH 'MY' LIMIT 9",
    "SHOW DATABASES LIKE 'my%' STARTS WITH 'MY' LIMIT 9",
    "SHOW SCHEMAS LIKE 'my%' IN ACCOUNT STARTS WITH 'MY' LIMIT 9",
    *(f"SHOW {kind} IN {place}" for kind in ("MODELS", "VIEWS") for place in ("DATABASE", "SCHEMA")),
    "SHOW SCHEMAS IN DATABASE",
    "SHOW SHARES LIKE 'my%' STARTS WITH 'MY' LIMIT 9",
    "SHOW PARAMETERS LIKE 'CORTEX%' IN ACCOUNT",
    "SHOW GRANTS LIMIT 9",
    "SHOW GRANTS ON ACCOUNT",
    "SHOW GRANTS ON DATABASE ROLE SNOWFLAKE.CORTEX_USER",
    "SHOW GRANTS OF DATABASE ROLE SNOWFLAKE.CORTEX_USER LIMIT 9",
    "SHOW GRANTS ON BASE MODEL tiny",
)
"""They name nothing, and tell whoever asks of his own."""
READINGS = (
    *(f"SELECT * FROM {name}" for name in TABLES),
    "SHOW VERSIONS LIKE 'V%' IN MODEL {model} LIMIT 9",
    "SELECT SNOWFLAKE.CORTEX.FINETUNE('DESCRIBE', '{job}')",
    *(f"SHOW GRANTS ON {kind} {name}" for kind, name in OBJECTS.items()),
    "SHOW GRANTS TO ROLE {role}",
    "SHOW GRANTS OF ROLE {role}",
    "SHOW GRANTS TO USER {user}",
    "SHOW GRANTS TO SHARE {share}",
    "SHOW GRANTS OF SHARE {share}",
    "SHOW FUTURE GRANTS IN SCHEMA {place}.{place}",
    "SHOW FUTURE GRANTS TO ROLE {role} LIMIT 9",
    "SHOW SCHEMAS IN DATABASE {place}",
    "DESC TABLE {table}",
    "DESCRIBE VIEW {view}",
    "DESC SHARE {share}",
    "DESCRIBE SHARE {share}",
)
FUNCTIONS = {
    "FINETUNE": (
        "FINETUNE('CREATE', 'mine', 'tiny', 'SELECT * FROM {table}')",
        "FINETUNE('CREATE', 'next', 'tiny', 'SELECT ''a'' AS prompt, ''b'' AS completion', '', "
        """'{"continue_from": "{model}", "lora_rank": 8}')""",
        "FINETUNE('DESCRIBE', '{job}')",
        "FINETUNE('CANCEL', '{waiting}')",
    ),
    "COMPLETE": ("COMPLETE('{model}', 'a')", "COMPLETE('{model}@1', 'a')", "COMPLETE('tiny', prompt) FROM {table}"),
    "TRY_COMPLETE": ("TRY_COMPLETE('{model}', 'a')", "TRY_COMPLETE('tiny', prompt) FROM {table}"),
    "AI_COMPLETE": ("AI_COMPLETE('{model}', 'a')", "AI_COMPLETE('tiny', prompt) FROM {table}"),
    "COUNT_TOKENS": ("COUNT_TOKENS('tiny', prompt) FROM {table}",),
    "AI_COUNT_TOKENS": ("AI_COUNT_TOKENS('ai_complete', 'tiny', prompt) FROM {table}",),
    COUNT_DETAILED: ("AI_COUNT_TOKENS('ai_complete', 'tiny', prompt, TRUE) FROM {table}",),
}
"""Of SNOWFLAKE.CORTEX; those that take a model's name with it, all that read rows with a table's."""
NULLS = ("TRY_COMPLETE('{model}", "AI_COMPLETE('{model}")
"""They give NULL for what is not there."""
CHANGES = (
    *(f"SELECT SNOWFLAKE.CORTEX.{call}" for calls in FUNCTIONS.values() for call in calls),
    "SHOW VERSIONS IN MODEL {model} LIMIT 9 FROM 'V1'",
    "ALTER MODEL {model} SET DEFAULT_VERSION = V2",
    "ALTER MODEL {model} VERSION V1 SET ALIAS = a",
    "ALTER MODEL {model} VERSION a UNSET ALIAS",
    "ALTER MODEL {model} DROP VERSION V1",
    "CREATE SCHEMA IF NOT EXISTS {place}.mine COMMENT = 'mine'",
    "CREATE OR REPLACE SECURE VIEW mine (a) COMMENT = 'mine' AS SELECT prompt FROM {table}",
    "CREATE VIEW IF NOT EXISTS mine AS SELECT * FROM {view}",
    "CREATE OR REPLACE VIEW {view} AS SELECT * FROM {table}",
    *_granted("GRANT", KINDS.split("|"), "ROLE PUBLIC"),
    *_granted("REVOKE", (kind for kind in KINDS.split("|") if kind not in OWNED_ALONE), "ROLE PUBLIC"),
    "GRANT OWNERSHIP ON TABLE {table} TO ROLE PUBLIC",
    *(f"GRANT OWNERSHIP ON {kind} {name} TO ROLE ACCOUNTADMIN COPY CURRENT GRANTS" for kind, name in OBJECTS.items()),
    "GRANT OWNERSHIP ON VIEW {view} TO ROLE ACCOUNTADMIN REVOKE CURRENT GRANTS",
    "SHOW FUTURE GRANTS IN DATABASE {place} LIMIT 9 FROM 'A'",
    *_in_schema("ALL", "ROLE PUBLIC"),
    *_in_schema("FUTURE", "ROLE PUBLIC"),
    "GRANT ROLE {role} TO USER {user}",
    "REVOKE ROLE {role} FROM USER {user}",
    "GRANT ROLE {role} TO ROLE PUBLIC",
    "REVOKE ROLE {role} FROM ROLE PUBLIC",
    "GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER TO ROLE {role}",
    "REVOKE DATABASE ROLE SNOWFLAKE.CORTEX_USER FROM ROLE {role}",
    'GRANT APPLICATION ROLE SNOWFLAKE."CORTEX-MODEL-ROLE-TINY" TO ROLE {role}',
    'REVOKE APPLICATION ROLE SNOWFLAKE."CORTEX-MODEL-ROLE-TINY" FROM ROLE {role}',
    "GRANT USAGE ON BASE MODEL tiny TO ROLE {role}",
    "REVOKE USAGE ON BASE MODEL tiny FROM ROLE {role}",
    "GRANT CREATE ROLE ON ACCOUNT TO ROLE {role}",
    "REVOKE CREATE ROLE ON ACCOUNT FROM ROLE {role}",
    "CREATE USER IF NOT EXISTS {user}2 DEFAULT_ROLE = {role} COMMENT = 'mine'",
    "CREATE USER IF NOT EXISTS {user}3 COMMENT = 'mine' DEFAULT_ROLE = {role}",
    "ALTER USER {user} SET DEFAULT_ROLE = {role}",
    "ALTER USER {user} UNSET DEFAULT_ROLE",
    "REVOKE USAGE ON MODEL {model} FROM SHARE {share}",
    "REVOKE USAGE ON SCHEMA luthier.public FROM SHARE {share}",
    "REVOKE USAGE ON DATABASE luthier FROM SHARE {share}",
    "GRANT USAGE ON DATABASE luthier TO SHARE {share}",
    "GRANT USAGE ON SCHEMA luthier.public TO SHARE {share}",
    "GRANT USAGE ON MODEL {model} TO SHARE {share}",
    *_in_schema("ALL", "SHARE {share}", "luthier.public", "MODELS"),
    "ALTER SHARE {share} ADD ACCOUNTS = tenant",
    "ALTER SHARE {share} REMOVE ACCOUNTS = tenant",
    "ALTER SHARE {share} SET ACCOUNTS = tenant, mysecretpartner",
    "DROP VIEW {view}",
    "DROP SHARE {share}",
    "DROP ROLE {role}",
    "DROP USER {user}",
    "DROP MODEL {model}",
    "DROP SCHEMA {place} RESTRICT",
    "DROP DATABASE {place} CASCADE",
)
"""In an order in which each can be done."""
OPEN = (
    *(f"CREATE {kind} IF NOT EXISTS mine COMMENT = 'mine'" for kind in ("ROLE", "USER", "SHARE", "DATABASE")),
    "ALTER ACCOUNT SET CORTEX_MODELS_ALLOWLIST = 'All'",
    "ALTER ACCOUNT UNSET CORTEX_MODELS_ALLOWLIST",
    *(
        f"SHOW {kind} LIMIT 9 FROM 'A'"
        for kind in ("MODELS", "ROLES", "USERS", "DATABASES", "SCHEMAS", "GRANTS", "VIEWS")
    ),
    "SHOW SHARES LIMIT 9 FROM 'A'",
    "SHOW GRANTS TO DATABASE ROLE SNOWFLAKE.CORTEX_USER LIMIT 9 FROM 'A'",
    "SHOW CORTEX BASE MODELS LIKE 'tiny'",
    "CALL SNOWFLAKE.MODELS.CORTEX_BASE_MODELS_REFRESH()",
    *(
        f"DROP {kind} IF EXISTS {OBJECTS[kind]}"
        for kind in ("ROLE", "USER", "SHARE", "VIEW", "MODEL", "SCHEMA", "DATABASE")
    ),
)
"""They make or change what is the caller's own, or say nothing of what is not there."""
PARTNERS = (
    "DESC SHARE main.{share}",
    "CREATE DATABASE {place}3 FROM SHARE main.{share}",
    "SELECT SNOWFLAKE.CORTEX.COMPLETE('{place}3.public.{model}', 'a')",
)
"""Asked by the account that the share is open to."""
REFUSED = (
    "GRANT IMPORTED PRIVILEGES ON DATABASE SNOWFLAKE TO ROLE PUBLIC",
    "REVOKE IMPORTED PRIVILEGES ON DATABASE SNOWFLAKE FROM ROLE PUBLIC",
    "GRANT USAGE ON MODEL {model} TO ROLE PUBLIC WITH GRANT OPTION",
    *_granted("REVOKE", OWNED_ALONE, "ROLE PUBLIC"),
    *_granted("GRANT", ("TABLE", "VIEW", *OWNED_ALONE), "SHARE {share}"),
    *_granted("REVOKE", ("TABLE", "VIEW", *OWNED_ALONE), "SHARE {share}"),
    *_in_schema("ALL", "SHARE {share}", "luthier.public", "TABLES|VIEWS"),
    *_in_schema("FUTURE", "SHARE {share}"),
    "CREATE TEMP VIEW mine AS SELECT * FROM {table}",
    "SELECT SNOWFLAKE.CORTEX.COUNT_TOKENS('{model}', 'a')",
    "SELECT * FROM '{rows}'",
    'SELECT * FROM "{rows}"',
    "SELECT * FROM read_parquet('{rows}')",
    "SELECT * FROM @{rows}",
    "SELECT read_text('{weights}')",
    "SELECT * FROM read_blob('{weights}')",
    "SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE', 'mine', 'tiny', 'SELECT * FROM ''{rows}''')",
    "SELECT * FROM main.luthier.public.{table}",
    "LIST '{weights}'",
    "LIST snow://model/{model}/versions/V1/",
    "GET snow://model/{model}/versions/V1/adapter_model.safetensors file:///tmp/",
    "COPY (SELECT 1) TO '{weights}'",
    "COPY INTO {table} FROM '{rows}'",
    "INSERT INTO {table} VALUES ('a', 'b')",
    "DELETE FROM {table}",
    "DROP TABLE {table}",
    "ALTER TABLE {table} RENAME TO mine",
    "CREATE TABLE mine AS SELECT * FROM {table}",
    "ATTACH '{rows}' AS mine",
    "UNDROP MODEL {model}",
)
"""To everybody, whosever it is: there is no way in SQL to files, and none to change tables."""
