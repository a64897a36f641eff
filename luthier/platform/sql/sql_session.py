"""SQL's functions of who asks: in a statement each becomes what it says, as the SQL engine knows nobody."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from sqlglot import exp

from luthier.errors import InvalidSql
from luthier.platform.access import Caller
from luthier.platform.registry.roles import RolesHeld


@dataclass(frozen=True)
class Asker:
    """Whose statement it is, or who reads a view."""

    caller: Caller
    region: str
    roles: Callable[[], RolesHeld]
    """Asked where a statement wants to know."""


TEXTS: dict[str, Callable[[Asker], str]] = {
    "CURRENT_USER": lambda asker: asker.caller.user,
    "CURRENT_ROLE": lambda asker: asker.caller.role,
    "CURRENT_ACCOUNT": lambda asker: asker.caller.account,
    "CURRENT_ACCOUNT_NAME": lambda asker: asker.caller.account,
    "CURRENT_REGION": lambda asker: asker.region,
    "CURRENT_AVAILABLE_ROLES": lambda asker: json.dumps(asker.roles().available),
}
"""Without arguments."""
IS_ROLE_IN_SESSION = "IS_ROLE_IN_SESSION"


def put_said(tree: exp.Expr, asker: Asker) -> None:
    """In the place of each of these functions what it says; columns keep the name that they had with it."""
    if not _found(tree):
        return
    for select in tree.find_all(exp.Select):
        select.set("expressions", [_named(column) for column in select.expressions])
    for node in reversed(_found(tree)):  # those in another's arguments first
        node.replace(exp.paren(_said(node, asker), copy=False))


def _found(tree: exp.Expr) -> list[exp.Func]:
    return [node for node in tree.find_all(exp.Func) if _name(node) in (*TEXTS, IS_ROLE_IN_SESSION)]


def _named(column: exp.Expr) -> exp.Expr:
    if isinstance(column, exp.Alias) or not _found(column):
        return column
    return exp.alias_(column, column.sql("snowflake"), quoted=True, copy=False)


def _said(node: exp.Func, asker: Asker) -> exp.Expr:
    name = _name(node)
    arguments = node.expressions if isinstance(node, exp.Anonymous) else list(filter(None, node.args.values()))
    num = int(name == IS_ROLE_IN_SESSION)
    if len(arguments) != num:
        raise InvalidSql(f"{name} takes {num} argument(s), and here it has {len(arguments)}.")
    if name == IS_ROLE_IN_SESSION:
        return exp.In(this=arguments[0].copy(), expressions=[_text(role) for role in asker.roles().in_session])
    return _text(TEXTS[name](asker))


def _name(node: exp.Func) -> str:
    return (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).upper()


def _text(value: str) -> exp.Expr:
    """With its type: DuckDB orders by no bare text."""
    return exp.cast(exp.Literal.string(value), "text")
