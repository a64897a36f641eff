"""Snowflake's SQL on who may do what: roles, users, GRANT, REVOKE, SHOW GRANTS, the account's model list.

Shapes: docs.snowflake.com, GRANT <privileges> TO ROLE, GRANT ROLE, GRANT DATABASE ROLE, SHOW GRANTS, SHOW ROLES, SHOW
USERS, CORTEX_MODELS_ALLOWLIST.
"""

from functools import partial

import pyarrow as pa

from luthier.errors import InvalidInput
from luthier.platform.keys import Endpoint
from luthier.platform.registry.paging import all_behind, all_pages
from luthier.platform.securables import IN_SCHEMA, Granted, ObjectKind, Privilege, Scope, role_key, user_key
from luthier.serve.dialects.native_access import GrantedBody, Shown, granted_in, grants_shown
from luthier.serve.dialects.snowflake_statements import (
    IDENTIFIER,
    Command,
    Statements,
    columns,
    created,
    done,
    dropped,
    table,
    text_of,
)

GRANTS = columns("created_on, privilege, granted_on, name, granted_to, grantee_name, grant_option, granted_by")
FUTURE_GRANTS = columns("created_on, privilege, grant_on, name, grant_to, grantee_name, grant_option")
ROLE_GRANTS = columns("created_on, role, granted_to, grantee_name, granted_by")
ROLES = columns(
    "created_on, name, is_default, is_current, is_inherited, assigned_to_users, granted_to_roles, granted_roles, "
    "owner, comment"
)
USERS = columns("name, created_on, login_name, display_name, comment, disabled, default_role, owner")
PARAMETERS = columns("key, value, default, level, description, type")

KINDS = "DATABASE|SCHEMA|TABLE|VIEW|MODEL|ROLE|USER|SHARE"
KINDS_IN_SCHEMA = "|".join(f"{kind}S" for kind in IN_SCHEMA)
PRIVILEGES = r"(?P<privileges>[A-Z][A-Z_]*+(?:[\s,]++[A-Z_]++)*?)"

statements = Statements(
    Endpoint.ADMIN,
    KINDS=KINDS,
    KINDS_IN_SCHEMA=KINDS_IN_SCHEMA,
    PRIVILEGES=PRIVILEGES,
    MODEL_ROLE=r'"?CORTEX-MODEL-ROLE-(?P<base>[^"\s]++)"?',
    DEFAULT_ROLE=f"(?: DEFAULT_ROLE=(?P<default>{IDENTIFIER}))?",
    TO_ROLE=f"(?:ROLE )?(?P<role>{IDENTIFIER})",
)


def both(words: str) -> tuple[str, str]:
    """GRANT ... TO, REVOKE ... FROM. Nothing stands on a grant here that CASCADE could end or RESTRICT keep."""
    given, taken = (words.replace("<TO>", to) for to in ("TO", "FROM"))
    return f"(?P<verb>GRANT) {given}", f"(?P<verb>REVOKE) {taken}(?: (?:CASCADE|RESTRICT))?"


@statements.on(r"GRANT .*\bWITH GRANT OPTION")
def _no_grant_option(_command: Command) -> pa.Table:
    raise InvalidInput(
        "WITH GRANT OPTION is not kept: an object's owner grants on it, and who has MANAGE GRANTS ON ACCOUNT. Grant "
        "without it, or GRANT OWNERSHIP."
    )


@statements.on(*both("IMPORTED PRIVILEGES ON DATABASE SNOWFLAKE <TO> {TO_ROLE}"))
def _no_usage_database(command: Command) -> pa.Table:
    raise InvalidInput(
        "SNOWFLAKE was made of no share here: what all others used is read by who has MONITOR USAGE. "
        f"`GRANT MONITOR USAGE ON ACCOUNT TO ROLE {command['role']}` gives it."
    )


# roles and users


@statements.on("CREATE ROLE{IF_NOT_EXISTS} {ONE_NAME}{COMMENT}")
def _create_role(command: Command) -> pa.Table:
    name = role_key(command["name"])
    return created("Role", name, command.registry.roles.create(command.caller, name, command.comment))


@statements.on("DROP ROLE{IF_EXISTS} {ONE_NAME}")
def _drop_role(command: Command) -> pa.Table:
    name = role_key(command["name"])
    return dropped(command, name, lambda: command.registry.roles.drop(command.caller, name))


@statements.on(
    "CREATE USER{IF_NOT_EXISTS} {ONE_NAME}{DEFAULT_ROLE}{COMMENT}",
    "CREATE USER{IF_NOT_EXISTS} {ONE_NAME}{COMMENT}{DEFAULT_ROLE}",
)
def _create_user(command: Command) -> pa.Table:
    name, role = user_key(command["name"]), _default_role(command)
    return created("User", name, command.registry.users.create(command.caller, name, role, command.comment))


@statements.on("ALTER USER {ONE_NAME} (?:SET DEFAULT_ROLE=(?P<default>{IDENTIFIER})|UNSET DEFAULT_ROLE)")
def _set_default_role(command: Command) -> pa.Table:
    command.registry.users.set_default_role(command.caller, user_key(command["name"]), _default_role(command))
    return done()


def _default_role(command: Command) -> str | None:
    return role_key(command["default"]) if command["default"] else None


@statements.on("DROP USER{IF_EXISTS} {ONE_NAME}")
def _drop_user(command: Command) -> pa.Table:
    name = user_key(command["name"])
    return dropped(command, name, lambda: command.registry.users.drop(command.caller, name))


# GRANT and REVOKE


@statements.on(*both("DATABASE ROLE {FULL_NAME} <TO> {TO_ROLE}"))
def _cortex(command: Command) -> pa.Table:
    """GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER."""
    role = command.services.securable(ObjectKind.DATABASE_ROLE, command["name"])
    return _granted(command, Granted((Privilege.USAGE,), role))


@statements.on(*both(r"APPLICATION ROLE SNOWFLAKE\s*\.\s*{MODEL_ROLE} <TO> {TO_ROLE}"))
def _model_role(command: Command) -> pa.Table:
    """GRANT APPLICATION ROLE SNOWFLAKE."CORTEX-MODEL-ROLE-...": a base model to a role, whatever the list says."""
    base = command.services.securable(ObjectKind.BASE_MODEL, command["base"])
    return _granted(command, Granted((Privilege.USAGE,), base))


@statements.on(*both("ROLE (?P<role>{IDENTIFIER}) <TO> (?P<kind>ROLE|USER) {ONE_NAME}"))
def _grant_role(command: Command) -> pa.Table:
    roles, to = command.registry.roles, command.services.securable(command.kind, command["name"])
    verb = roles.grant if command["verb"].upper() == "GRANT" else roles.revoke
    verb(command.caller, role_key(command["role"]), to)
    return done()


@statements.on(
    *both(r"{PRIVILEGES} ON (?P<kind>ACCOUNT)(?P<name>) <TO> {TO_ROLE}"),
    *both("{PRIVILEGES} ON (?P<scope>ALL|FUTURE) (?P<kind>{KINDS_IN_SCHEMA}) IN SCHEMA {FULL_NAME} <TO> {TO_ROLE}"),
    *both(r"{PRIVILEGES} ON (?P<kind>{KINDS}|BASE\s+MODEL) {FULL_NAME} <TO> {TO_ROLE}"),
    "(?P<verb>GRANT) (?P<privileges>OWNERSHIP) ON (?P<kind>{KINDS}) {FULL_NAME} TO {TO_ROLE} "
    "(?P<current>COPY|REVOKE) CURRENT GRANTS",
)
def grant(command: Command) -> pa.Table:
    """Privileges on an object, or on all objects of a kind in a schema that are there or will be."""
    body = GrantedBody(
        privileges=command["privileges"].split(","),
        kind=command.kind,
        name=command["name"],
        scope=Scope((command.words.get("scope") or Scope.ONE).upper()),
    )
    is_last = (command.words.get("current") or "").upper() == "REVOKE"
    return _granted(command, granted_in(command.services, body)._replace(ends_others=is_last))


def _granted(command: Command, granted: Granted) -> pa.Table:
    """To a role or a share, or taken from it."""
    share = command.words.get("share")
    grants = command.registry.shares if share else command.registry.grants
    verb = grants.grant if command["verb"].upper() == "GRANT" else grants.revoke
    num = verb(command.caller, granted, role_key(share or command["role"]))
    counted = f" {num} objects affected." if granted.scope is Scope.ALL else ""
    return done(f"Statement executed successfully.{counted}")


# SHOW


@statements.on(
    "SHOW GRANTS(?: (?:TO ROLE (?P<to_role>{IDENTIFIER})|TO USER (?P<to_user>{IDENTIFIER})|"
    r"OF ROLE (?P<of_role>{IDENTIFIER})|ON (?P<kind>ACCOUNT|{KINDS}|BASE\s+MODEL|DATABASE\s+ROLE)(?: {FULL_NAME})?))?"
    "{LIMIT}"
)
def _show_grants(command: Command) -> pa.Table:
    whose = {word: command[word] for word in ("to_role", "of_role", "to_user")}
    shown = Shown(**whose, kind=command.kind if command["kind"] else None, name=command["name"] or "")
    rows = all_behind(grants_shown(command.services, command.session, shown), command.most_rows)
    return table(GRANTS if shown.to_role or shown.kind else ROLE_GRANTS, rows)


@statements.on("SHOW GRANTS (?P<side>OF|TO) DATABASE ROLE {FULL_NAME}{LIMIT}")
def _show_database_role(command: Command) -> pa.Table:
    """Who holds it; by itself it holds nothing that was granted."""
    about = command.services.securable(ObjectKind.DATABASE_ROLE, command["name"])
    held = all_behind(partial(command.registry.grants.on, command.caller, about), command.most_rows)
    if command["side"].upper() == "TO":
        return table(GRANTS, [])
    return table(ROLE_GRANTS, held, role=about.name)


@statements.on(
    "SHOW FUTURE GRANTS (?:TO ROLE (?P<to_role>{IDENTIFIER})|IN (?P<kind>DATABASE|SCHEMA) {FULL_NAME}){LIMIT}"
)
def _show_future_grants(command: Command) -> pa.Table:
    """A database has none: they are on what is made in a schema."""
    grants, caller = command.registry.grants, command.caller
    if command["to_role"]:
        show = partial(grants.future_to, caller, role_key(command["to_role"]))
    else:
        show = partial(grants.future, caller, command.services.securable(command.kind, command["name"]))
    rows = all_behind(show, command.most_rows)
    told = [row.model_dump() for row in rows]
    return table(FUTURE_GRANTS, [{**row, "grant_on": row["granted_on"], "grant_to": row["granted_to"]} for row in told])


@statements.on("SHOW ROLES{LIKE}{STARTS}{LIMIT}")
def _show_roles(command: Command) -> pa.Table:
    caller, roles = command.caller, command.registry.roles
    default = command.registry.users.get(caller, caller.user).default_role
    wanted = command.wanted_since
    show = partial(roles.show, caller, wanted=wanted)
    shown = all_pages(show, lambda role: role.name, command.most_rows, lambda role: wanted.fits(role.name))
    return table(ROLES, [{**role.model_dump(), "is_default": role.name == default} for role in shown])


@statements.on("SHOW USERS{LIKE}{STARTS}{LIMIT}")
def _show_users(command: Command) -> pa.Table:
    wanted = command.wanted_since
    show = partial(command.registry.users.show, command.caller, wanted=wanted)
    shown = all_pages(show, lambda user: user.name, command.most_rows, lambda user: wanted.fits(user.name))
    named = [{**user.model_dump(), "login_name": user.name, "display_name": user.name} for user in shown]
    return table(USERS, named, disabled=False)


# the account's parameters


@statements.on("SHOW PARAMETERS{LIKE}(?: IN ACCOUNT)?")
def _show_parameters(command: Command) -> pa.Table:
    told = command.registry.accounts.parameters(command.caller)
    return table(PARAMETERS, [{"key": key, "value": value} for key, value in told.items()])


@statements.on(r"ALTER ACCOUNT SET (?P<name>\w+)=(?P<value>{TEXT})", r"ALTER ACCOUNT UNSET (?P<name>\w+)")
def _set_parameter(command: Command) -> pa.Table:
    value = command.words.get("value")
    command.registry.accounts.set_parameter(command.caller, command["name"], text_of(value) if value else None)
    return done()
