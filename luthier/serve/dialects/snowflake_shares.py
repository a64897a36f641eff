"""Snowflake's SQL on shares: CREATE, ALTER, DROP, SHOW, DESC SHARE; GRANT ... TO SHARE; CREATE DATABASE ... FROM SHARE.

Shapes: docs.snowflake.com, CREATE SHARE, ALTER SHARE, SHOW SHARES, DESCRIBE SHARE, GRANT <privilege> TO SHARE.
"""

from functools import partial

import pyarrow as pa

from luthier.platform.keys import Endpoint
from luthier.platform.names import fold
from luthier.platform.registry.paging import all_behind
from luthier.platform.securables import role_key
from luthier.serve.dialects.snowflake_access import GRANTS, KINDS, PRIVILEGES, both, grant
from luthier.serve.dialects.snowflake_statements import (
    IDENTIFIER,
    MAX_ROWS,
    Command,
    Statements,
    columns,
    created,
    done,
    dropped,
    table,
)

SHARES = columns(
    "created_on, kind, owner_account, name, database_name, to, owner, comment, listing_global_name, secure_objects_only"
)
SHARED = columns("kind, name, shared_on")
SHARE_ACCOUNTS = columns("created_on, share, granted_to, grantee_name, granted_by")

ACCOUNT = r'(?:"(?:[^"]|"")*"|[\w$-]+)'
SHARE = f"(?P<share>{IDENTIFIER})"

statements = Statements(
    Endpoint.ADMIN,
    KINDS=KINDS,
    PRIVILEGES=PRIVILEGES,
    SHARE=SHARE,
    ACCOUNTS=rf"(?P<accounts>{ACCOUNT}(?:\s*,\s*{ACCOUNT})*)",
    PROVIDED=rf"(?P<provider>{ACCOUNT})\s*\.\s*{SHARE}",
)


def account_key(written: str) -> str:
    """An account's name as it is; in double quotes or not."""
    return written.strip().strip('"')


@statements.on("CREATE SHARE{IF_NOT_EXISTS} {ONE_NAME}{COMMENT}")
def _create(command: Command) -> pa.Table:
    name = role_key(command["name"])
    return created("Share", name, command.registry.shares.create(command.caller, name, command.comment))


@statements.on("DROP SHARE{IF_EXISTS} {ONE_NAME}")
def _drop(command: Command) -> pa.Table:
    name = role_key(command["name"])
    return dropped(command, name, lambda: command.registry.shares.drop(command.caller, name))


@statements.on("ALTER SHARE {SHARE} (?P<how>ADD|REMOVE|SET) ACCOUNTS={ACCOUNTS}")
def _alter(command: Command) -> pa.Table:
    shares = command.registry.shares
    verbs = {"ADD": shares.add_accounts, "REMOVE": shares.remove_accounts, "SET": shares.set_accounts}
    accounts = [account_key(each) for each in command["accounts"].split(",")]
    verbs[command["how"].upper()](command.caller, role_key(command["share"]), accounts)
    return done()


statements.on(
    *both("{PRIVILEGES} ON (?P<scope>ALL|FUTURE) (?P<kind>MODELS|TABLES) IN SCHEMA {FULL_NAME} <TO> SHARE {SHARE}"),
    *both("{PRIVILEGES} ON (?P<kind>{KINDS}) {FULL_NAME} <TO> SHARE {SHARE}"),
)(grant)


@statements.on("SHOW SHARES{LIKE}{STARTS}{LIMIT}")
def _show(command: Command) -> pa.Table:
    shown = all_behind(partial(command.registry.shares.show, command.caller), MAX_ROWS)
    rows = [each.model_dump() for each in shown]
    told = [{**row, "to": ", ".join(row["to"])} for row in rows]
    return table(SHARES, told, listing_global_name="", secure_objects_only="true")


@statements.on("(?:DESC|DESCRIBE) SHARE {SHARE}", "(?:DESC|DESCRIBE) SHARE {PROVIDED}")
def _describe(command: Command) -> pa.Table:
    provider = command.words.get("provider")
    share = role_key(command["share"]), provider and account_key(provider)
    return table(SHARED, all_behind(partial(command.registry.shares.describe, command.caller, *share), MAX_ROWS))


@statements.on("SHOW GRANTS TO SHARE {SHARE}")
def _show_grants(command: Command) -> pa.Table:
    show = partial(command.registry.shares.grants, command.caller, role_key(command["share"]))
    return table(GRANTS, all_behind(show, MAX_ROWS))


@statements.on("SHOW GRANTS OF SHARE {SHARE}")
def _show_accounts(command: Command) -> pa.Table:
    show = partial(command.registry.shares.accounts, command.caller, role_key(command["share"]))
    return table(SHARE_ACCOUNTS, all_behind(show, MAX_ROWS))


@statements.on("CREATE DATABASE {ONE_NAME} FROM SHARE {PROVIDED}")
def _import(command: Command) -> pa.Table:
    name, of = fold(command["name"]), (account_key(command["provider"]), role_key(command["share"]))
    return created("Database", name, command.registry.shares.import_database(command.caller, name, *of))
