"""Snowflake's SQL on shares: CREATE, ALTER, DROP, SHOW, DESC SHARE; GRANT ... TO SHARE; CREATE DATABASE ... FROM SHARE.

Shapes: docs.snowflake.com, CREATE SHARE, ALTER SHARE, SHOW SHARES, DESCRIBE SHARE, GRANT <privilege> TO SHARE.
"""

import re

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.names import fold
from luthier.platform.securables import role_key
from luthier.serve.dialects.snowflake_access import (
    GRANTS,
    KINDS,
    ONE_NAME,
    PRIVILEGES,
    both,
    grant_in_schema,
    grant_on,
    granting,
    table,
)
from luthier.serve.dialects.snowflake_statements import (
    COMMENT,
    IDENTIFIER,
    IF_EXISTS,
    IF_NOT_EXISTS,
    NAME,
    Answer,
    columns,
    created,
    done,
    dropped,
    pattern,
    text_of,
)
from luthier.serve.services import Services

SHARES = columns(
    *("created_on", "kind", "owner_account", "name", "database_name", "to", "owner", "comment"),
    *("listing_global_name", "secure_objects_only"),
)
SHARED = columns("kind", "name", "shared_on")
SHARE_ACCOUNTS = columns("created_on", "share", "granted_to", "grantee_name", "granted_by")

ACCOUNT = r'(?:"(?:[^"]|"")*"|[\w$-]+)'
ACCOUNTS = rf"(?P<accounts>{ACCOUNT}(?:\s*,\s*{ACCOUNT})*)"
SHARE = f"(?P<share>{IDENTIFIER})"
PROVIDED = rf"(?P<provider>{ACCOUNT})\s*\.\s*{SHARE}"


def account_key(written: str) -> str:
    """An account's name as it is; in double quotes or not."""
    return written.strip().strip('"')


def _create(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = role_key(found["name"])
    return created("Share", name, services.registry.shares.create(caller, name, text_of(found["comment"])))


def _drop(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = role_key(found["name"])
    return dropped(found, name, lambda: services.registry.shares.drop(caller, name))


def _alter(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    shares = services.registry.shares
    verbs = {"ADD": shares.add_accounts, "REMOVE": shares.remove_accounts, "SET": shares.set_accounts}
    accounts = [account_key(each) for each in found["accounts"].split(",")]
    verbs[found["how"].upper()](caller, role_key(found["share"]), accounts)
    return done()


def _show(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    fixed = {"listing_global_name": "", "secure_objects_only": "true"}
    rows = [each.model_dump() for each in services.registry.shares.show(caller)]
    return pa.Table.from_pylist([{**row, **fixed, "to": ", ".join(row["to"])} for row in rows], SHARES)


def _describe(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    provider = found.groupdict().get("provider")
    name = role_key(found["share"])
    return table(SHARED, services.registry.shares.describe(caller, name, provider and account_key(provider)))


def _show_grants(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    return table(GRANTS, services.registry.shares.grants(caller, role_key(found["share"])))


def _show_accounts(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    return table(SHARE_ACCOUNTS, services.registry.shares.accounts(caller, role_key(found["share"])))


def _import(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name, share = fold(found["name"]), role_key(found["share"])
    is_new = services.registry.shares.import_database(caller, name, account_key(found["provider"]), share)
    return created("Database", name, is_new)


STATEMENTS: tuple[tuple["re.Pattern[str]", Answer], ...] = (
    (pattern(f"CREATE SHARE{IF_NOT_EXISTS} {ONE_NAME}{COMMENT}"), _create),
    (pattern(f"DROP SHARE{IF_EXISTS} {ONE_NAME}"), _drop),
    (pattern(f"ALTER SHARE {SHARE} (?P<how>ADD|REMOVE|SET) ACCOUNTS={ACCOUNTS}"), _alter),
    *both(
        f"{PRIVILEGES} ON (?P<scope>ALL|FUTURE) (?P<kind>MODELS|TABLES) IN SCHEMA (?P<name>{NAME}) <TO> SHARE {SHARE}",
        granting(grant_in_schema, "share"),
    ),
    *both(f"{PRIVILEGES} ON (?P<kind>{KINDS}) (?P<name>{NAME}) <TO> SHARE {SHARE}", granting(grant_on, "share")),
    (pattern("SHOW SHARES"), _show),
    (pattern(f"(?:DESC|DESCRIBE) SHARE {SHARE}"), _describe),
    (pattern(f"(?:DESC|DESCRIBE) SHARE {PROVIDED}"), _describe),
    (pattern(f"SHOW GRANTS TO SHARE {SHARE}"), _show_grants),
    (pattern(f"SHOW GRANTS OF SHARE {SHARE}"), _show_accounts),
    (pattern(f"CREATE DATABASE {ONE_NAME} FROM SHARE {PROVIDED}"), _import),
)
