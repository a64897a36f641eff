"""Who may do what in an account, in the plainest way: by sets."""

from collections.abc import Callable
from dataclasses import dataclass, field

from luthier.errors import LuthierError, NotAllowed, NotFound
from luthier.platform.access import ADMIN_ROLE
from luthier.platform.privileges import Action
from luthier.platform.securables import (
    ACCOUNT,
    AI_FUNCTIONS_USER,
    CORTEX_USER,
    DATABASE_ROLES,
    PUBLIC,
    ObjectKind,
    Privilege,
    Securable,
)

DATABASE, SCHEMA = Securable(ObjectKind.DATABASE, "D"), Securable(ObjectKind.SCHEMA, "D", "S")
ALL = Privilege.USE_AI_FUNCTIONS
COMPLETING = {
    Action.CALL_COMPLETE: Privilege.USE_COMPLETE,
    Action.CALL_TRY_COMPLETE: Privilege.USE_TRY_COMPLETE,
    Action.CALL_AI_COMPLETE: Privilege.USE_AI_COMPLETE,
}
BY_SQL = (CORTEX_USER, AI_FUNCTIONS_USER)
CALLS: dict[Action, tuple[tuple[Securable, ...], tuple[Privilege, ...]]] = {
    Action.COMPLETE_BASE: (DATABASE_ROLES, (ALL, *COMPLETING.values())),
    **{action: (BY_SQL, (ALL, privilege)) for action, privilege in COMPLETING.items()},
    Action.COUNT_TOKENS: (BY_SQL, (ALL, Privilege.USE_COUNT_TOKENS)),
    Action.CALL_FINETUNE: ((CORTEX_USER,), (ALL, Privilege.USE_FINETUNE)),
}
"""One of these roles and one of these privileges."""


def model(name: str) -> Securable:
    return Securable(ObjectKind.MODEL, "D", "S", name)


@dataclass
class Plain:
    """Who may do what in an account, by sets."""

    roles: set[str] = field(default_factory=lambda: {ADMIN_ROLE, PUBLIC})
    members: set[tuple[str, str]] = field(default_factory=set)
    """(role, the role that it is granted to)."""
    users: dict[str, set[str]] = field(default_factory=dict)
    """With the roles that are granted to them."""
    places: set[Securable] = field(default_factory=set)
    held: set[tuple[str, Privilege, Securable]] = field(
        default_factory=lambda: {(PUBLIC, Privilege.USAGE, CORTEX_USER), (PUBLIC, ALL, ACCOUNT)}
    )
    future: set[tuple[str, Privilege]] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)
    """Of models."""

    def of(self, *names: str, everybody: bool = True) -> set[str]:
        found = {each for each in (*names, *([PUBLIC] if everybody else [])) if each in self.roles}
        while more := {given for given, to in self.members if to in found} - found:
            found |= more
        return found

    def has(self, name: str, privilege: Privilege, on: Securable) -> bool:
        mine = self.of(name)
        its = {each for grantee, each, about in self.held if about == on and grantee in mine}
        if on.kind is ObjectKind.MODEL and self.owners.get(on.name) in mine:
            its.add(Privilege.OWNERSHIP)
        given_by = {privilege, Privilege.OWNERSHIP} | ({Privilege.READ} if privilege is Privilege.USAGE else set())
        return ADMIN_ROLE in mine or bool(its & given_by)

    def sees(self, name: str, on: Securable) -> bool:
        around = {DATABASE: ()}.get(on, (DATABASE,) if on.kind is ObjectKind.SCHEMA else (DATABASE, SCHEMA))
        something = any(self.has(name, each, on) for each in (Privilege.USAGE, Privilege.READ, Privilege.OWNERSHIP))
        return something and all(self.has(name, Privilege.USAGE, each) for each in around)

    def may_call(self, name: str, action: Action) -> bool:
        by, uses = CALLS[action]
        has_role = any(self.has(name, Privilege.USAGE, each) for each in by)
        return has_role and any(self.has(name, each, ACCOUNT) for each in uses)

    def is_there(self, on: Securable) -> bool:
        return on.name in self.owners if on.kind is ObjectKind.MODEL else on in self.places

    def may(self, name: str, action: Privilege, of: str) -> type[LuthierError] | None:
        """The error, or None. `action` is the privilege that it needs on the model."""
        if of not in self.owners or not self.sees(name, model(of)):
            return NotFound
        return None if self.has(name, action, model(of)) else NotAllowed

    def may_grant(self, name: str, on: Securable) -> type[LuthierError] | None:
        if not self.is_there(on):
            return NotFound
        if self.has(name, Privilege.OWNERSHIP, on) or self.has(name, Privilege.MANAGE_GRANTS, ACCOUNT):
            return None
        return NotAllowed if self.sees(name, on) else NotFound

    def end(self, gone: Callable[[Securable], bool]) -> None:
        self.held = {each for each in self.held if not gone(each[2])}
