"""Snowflake's SQL on who may do what: roles, users, GRANT, REVOKE, SHOW GRANTS, the account's model list.

Shapes: docs.snowflake.com, GRANT <privileges> TO ROLE, GRANT ROLE, GRANT DATABASE ROLE, SHOW GRANTS, SHOW ROLES, SHOW
USERS, CORTEX_MODELS_ALLOWLIST.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import pyarrow as pa

from luthier.errors import InvalidInput
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.registry.paging import MAX_SHOWN, Shown, all_pages
from luthier.platform.securables import (
    IN_SCHEMA,
    Granted,
    ObjectKind,
    Privilege,
    Scope,
    Securable,
    parse_in_schema,
    parse_privileges,
    parse_securable,
    role_key,
    user_key,
)
from luthier.serve.dialects.snowflake_statements import (
    COMMENT,
    IDENTIFIER,
    IF_EXISTS,
    IF_NOT_EXISTS,
    LIKE,
    LIMIT,
    MAX_ROWS,
    NAME,
    STARTS,
    TEXT,
    Answer,
    columns,
    created,
    done,
    dropped,
    most_rows,
    pattern,
    text_of,
)
from luthier.serve.services import Services

GRANTS = columns(
    *("created_on", "privilege", "granted_on", "name"), *("granted_to", "grantee_name", "grant_option", "granted_by")
)
FUTURE_GRANTS = columns(
    *("created_on", "privilege", "grant_on", "name", "grant_to", "grantee_name", "grant_option"),
)
ROLE_GRANTS = columns("created_on", "role", "granted_to", "grantee_name", "granted_by")
ROLES = columns(
    *("created_on", "name", "is_default", "is_current", "is_inherited", "assigned_to_users"),
    *("granted_to_roles", "granted_roles", "owner", "comment"),
)
USERS = columns("name", "created_on", "login_name", "display_name", "comment", "disabled", "default_role", "owner")
PARAMETERS = columns("key", "value", "default", "level", "description", "type")

MODEL_ROLE = r'"?CORTEX-MODEL-ROLE-(?P<base>[^"]+?)"?'
KINDS = "DATABASE|SCHEMA|TABLE|VIEW|MODEL|ROLE|USER|SHARE"
KINDS_IN_SCHEMA = "|".join(f"{kind}S" for kind in IN_SCHEMA)
PRIVILEGES = r"(?P<privileges>[A-Z][A-Z_\s,]*?)"
TO_ROLE = f"(?:ROLE )?(?P<role>{IDENTIFIER})"


def _create_role(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = role_key(found["name"])
    is_new = services.registry.roles.create(caller, name, text_of(found["comment"]))
    return created("Role", name, is_new)


def _drop_role(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = role_key(found["name"])
    return dropped(found, name, lambda: services.registry.roles.drop(caller, name))


def _create_user(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name, default = user_key(found["name"]), found["default"]
    role = role_key(default) if default else None
    return created("User", name, services.registry.users.create(caller, name, role, text_of(found["comment"])))


def _set_default_role(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    role = found["default"]
    services.registry.users.set_default_role(caller, user_key(found["name"]), role_key(role) if role else None)
    return done()


def _drop_user(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    name = user_key(found["name"])
    return dropped(found, name, lambda: services.registry.users.drop(caller, name))


def _grant_role(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    roles, is_grant = services.registry.roles, found["verb"].upper() == "GRANT"
    to = _securable(services, ObjectKind(found["to_kind"].upper()), found["to"])
    (roles.grant if is_grant else roles.revoke)(caller, role_key(found["role"]), to)
    return done()


def _cortex(services: Services, found: "re.Match[str]") -> Granted:
    """GRANT DATABASE ROLE SNOWFLAKE.CORTEX_USER."""
    return Granted((Privilege.USAGE,), _securable(services, ObjectKind.DATABASE_ROLE, found["name"]))


def _model_role(services: Services, found: "re.Match[str]") -> Granted:
    """GRANT APPLICATION ROLE SNOWFLAKE."CORTEX-MODEL-ROLE-...": a base model to a role, whatever the list says."""
    return Granted((Privilege.USAGE,), _securable(services, ObjectKind.BASE_MODEL, found["base"]))


def grant_on(services: Services, found: "re.Match[str]") -> Granted:
    """What is granted on an object."""
    kind = _kind(found["kind"])
    privileges = parse_privileges(kind, found["privileges"].split(","))
    return Granted(privileges, _securable(services, kind, found["name"] or ""))


def grant_in_schema(services: Services, found: "re.Match[str]") -> Granted:
    """On all objects of a kind in a schema, those that are there or will be."""
    kind = _kind(found["kind"].upper().removesuffix("S"))
    privileges = parse_privileges(kind, found["privileges"].split(","))
    on = parse_in_schema(kind, found["name"], services.settings.database)
    return Granted(privileges, on, Scope(found["scope"].upper()))


def granting(what: Callable[[Services, "re.Match[str]"], Granted], to: Literal["role", "share"] = "role") -> Answer:
    """GRANT and REVOKE of `what` the statement says, to a role or a share."""

    def answer(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
        granted, grants = what(services, found), services.registry.grants if to == "role" else services.registry.shares
        verb = grants.grant if found["verb"].upper() == "GRANT" else grants.revoke
        num = verb(caller, granted, role_key(found[to]))
        counted = f" {num} objects affected." if granted.scope is Scope.ALL else ""
        return done(f"Statement executed successfully.{counted}")

    return answer


def _no_grant_option(_services: Services, _caller: Caller, _found: "re.Match[str]") -> pa.Table:
    raise InvalidInput(
        "WITH GRANT OPTION is not kept: an object's owner grants on it, and who has MANAGE GRANTS ON ACCOUNT. Grant "
        "without it, or GRANT OWNERSHIP."
    )


def _show_grants(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    grants, words, most = services.registry.grants, found.groupdict(), most_rows(found)
    if role := words["to_role"]:
        return table(GRANTS, _all(most, partial(grants.to_role, caller, role_key(role))))
    if role := words["of_role"]:
        return table(ROLE_GRANTS, _all(most, partial(grants.of_role, caller, role_key(role))))
    if kind := words["kind"]:
        on = _securable(services, _kind(kind), words["name"] or "")
        return table(GRANTS, _all(most, partial(grants.on, caller, on)))
    user = words["to_user"]
    return table(ROLE_GRANTS, _all(most, partial(grants.to_user, caller, user_key(user) if user else caller.user)))


def _show_future_grants(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    schema = _securable(services, ObjectKind.SCHEMA, found["name"])
    rows = [each.model_dump() for each in _all(MAX_ROWS, partial(services.registry.grants.future, caller, schema))]
    renamed = [{**row, "grant_on": row["granted_on"], "grant_to": row["granted_to"]} for row in rows]
    return pa.Table.from_pylist(renamed, FUTURE_GRANTS)


def _show_roles(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    default, roles = services.registry.users.get(caller, caller.user).default_role, services.registry.roles
    shown = all_pages(lambda limit, after: roles.show(caller, limit, after), lambda role: role.name, most_rows(found))
    rows = [{**each.model_dump(), "is_default": each.name == default} for each in shown]
    return pa.Table.from_pylist(rows, ROLES)


def _show_users(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    users = services.registry.users
    shown = all_pages(lambda limit, after: users.show(caller, limit, after), lambda user: user.name, most_rows(found))
    rows = [each.model_dump() for each in shown]
    names = ("login_name", "display_name")
    return pa.Table.from_pylist(
        [{**row, **dict.fromkeys(names, row["name"]), "disabled": False} for row in rows], USERS
    )


def _set_parameter(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    services.registry.accounts.set_parameter(caller, found["name"], text_of(found["value"]))
    return done()


def _unset_parameter(services: Services, caller: Caller, found: "re.Match[str]") -> pa.Table:
    services.registry.accounts.set_parameter(caller, found["name"], None)
    return done()


def _show_parameters(services: Services, caller: Caller, _found: "re.Match[str]") -> pa.Table:
    rows = [{"key": key, "value": value} for key, value in services.registry.accounts.parameters(caller).items()]
    return pa.Table.from_pylist(rows, PARAMETERS)


def _all(most: int, show: Callable[[int, int], Sequence[Shown]]) -> list[Shown]:
    """Page by page, at most so many."""
    rows: list[Shown] = []
    while len(rows) < most:
        page = show(min(most - len(rows), MAX_SHOWN), len(rows))
        rows += page
        if len(page) < MAX_SHOWN:
            break
    return rows


def _securable(services: Services, kind: ObjectKind, name: str) -> Securable:
    return parse_securable(kind, name, services.settings.database, services.settings.schema_name)


def _kind(text: str) -> ObjectKind:
    return ObjectKind(" ".join(text.upper().split()))


def table(schema: pa.Schema, rows: Sequence[Frozen]) -> pa.Table:
    return pa.Table.from_pylist([row.model_dump() for row in rows], schema)


def both(words: str, answer: Answer) -> tuple[tuple["re.Pattern[str]", Answer], ...]:
    """GRANT ... TO, REVOKE ... FROM."""
    grant, revoke = words.replace("<TO>", "TO"), words.replace("<TO>", "FROM")
    return (pattern(f"(?P<verb>GRANT) {grant}"), answer), (pattern(f"(?P<verb>REVOKE) {revoke}"), answer)


ONE_NAME = f"(?P<name>{IDENTIFIER})"
SHOWN = (
    f"TO ROLE (?P<to_role>{IDENTIFIER})|TO USER (?P<to_user>{IDENTIFIER})|OF ROLE (?P<of_role>{IDENTIFIER})|"
    rf"ON (?P<kind>ACCOUNT|{KINDS}|BASE\s+MODEL|DATABASE\s+ROLE)(?: (?P<name>{NAME}))?"
)
STATEMENTS: tuple[tuple["re.Pattern[str]", Answer], ...] = (
    (pattern(r"GRANT .+ TO .+ WITH GRANT OPTION"), _no_grant_option),
    (pattern(f"CREATE ROLE{IF_NOT_EXISTS} {ONE_NAME}{COMMENT}"), _create_role),
    (pattern(f"DROP ROLE{IF_EXISTS} {ONE_NAME}"), _drop_role),
    (
        pattern(f"CREATE USER{IF_NOT_EXISTS} {ONE_NAME}(?: DEFAULT_ROLE=(?P<default>{IDENTIFIER}))?{COMMENT}"),
        _create_user,
    ),
    (
        pattern(f"ALTER USER {ONE_NAME} (?:SET DEFAULT_ROLE=(?P<default>{IDENTIFIER})|UNSET DEFAULT_ROLE)"),
        _set_default_role,
    ),
    (pattern(f"DROP USER{IF_EXISTS} {ONE_NAME}"), _drop_user),
    *both(f"DATABASE ROLE (?P<name>{NAME}) <TO> {TO_ROLE}", granting(_cortex)),
    *both(rf"APPLICATION ROLE SNOWFLAKE\s*\.\s*{MODEL_ROLE} <TO> {TO_ROLE}", granting(_model_role)),
    *both(f"ROLE (?P<role>{IDENTIFIER}) <TO> (?P<to_kind>ROLE|USER) (?P<to>{IDENTIFIER})", _grant_role),
    *both(rf"{PRIVILEGES} ON (?P<kind>ACCOUNT)(?P<name>) <TO> {TO_ROLE}", granting(grant_on)),
    *both(
        f"{PRIVILEGES} ON (?P<scope>ALL|FUTURE) (?P<kind>{KINDS_IN_SCHEMA}) IN SCHEMA (?P<name>{NAME}) <TO> {TO_ROLE}",
        granting(grant_in_schema),
    ),
    *both(rf"{PRIVILEGES} ON (?P<kind>{KINDS}|BASE\s+MODEL) (?P<name>{NAME}) <TO> {TO_ROLE}", granting(grant_on)),
    (pattern(f"SHOW GRANTS(?: (?:{SHOWN}))?{LIMIT}"), _show_grants),
    (pattern(f"SHOW FUTURE GRANTS IN SCHEMA (?P<name>{NAME})"), _show_future_grants),
    (pattern(f"SHOW ROLES{LIKE}{STARTS}{LIMIT}"), _show_roles),
    (pattern(f"SHOW USERS{LIKE}{STARTS}{LIMIT}"), _show_users),
    (pattern(f"SHOW PARAMETERS{LIKE}(?: IN ACCOUNT)?"), _show_parameters),
    (pattern(rf"ALTER ACCOUNT SET (?P<name>\w+)=(?P<value>{TEXT})"), _set_parameter),
    (pattern(r"ALTER ACCOUNT UNSET (?P<name>\w+)"), _unset_parameter),
)
