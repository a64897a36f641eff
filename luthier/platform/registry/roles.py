"""Verbs on roles: made, dropped, granted to users and to other roles."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform import batches, jobs
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.credits import BudgetKind, budget_scope
from luthier.platform.frozen import Frozen
from luthier.platform.metering import check_name
from luthier.platform.privileges import Action
from luthier.platform.registry.access import Access
from luthier.platform.registry.grant_rows import GrantRows
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.limits import Limits
from luthier.platform.registry.paging import ALL, MAX_SHOWN, Named, named_page
from luthier.platform.securables import PUBLIC, SYSTEM_ROLES, ObjectKind, Securable
from luthier.platform.store import Store, fetch

OWNED_BY_ROLE = {
    "tables": "role",
    "views": "role",
    "models": "role",
    "jobs": "role",
    "batches": "role",
    "files": "role",
}
OWNED_BY_ROLE |= {"roles": "owner", "users": "owner", "shares": "owner"}
"""Tables of the store, and the column that names the owner."""


class Role(Frozen):
    name: str
    owner: str
    comment: str
    created_on: int
    is_current: bool
    is_inherited: bool
    """By the current role."""
    assigned_to_users: int
    granted_to_roles: int
    granted_roles: int


class RolesHeld(Frozen):
    in_session: list[str]
    """The caller's, and all that it has."""
    available: list[str]
    """Those that his user may take."""


class Roles:
    def __init__(self, store: Store, guard: Guard, access: Access, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._access, self._clock = store, guard, access, clock
        self._roles, self._users, self._role_grants = map(store.table, ("roles", "users", "role_grants"))
        self._rows, self._limits = GrantRows(store), Limits(store, clock)

    def create(self, caller: Caller, name: str, comment: str = "") -> bool:
        """By who may create roles; False when the caller's role had made it before."""
        made = {"account": caller.account, "name": name, "owner": caller.role, "comment": comment}
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.CREATE_ROLE)
            check_name(name)
            if self._store.insert_missing(tx, "roles", [{**made, "created_on": self._clock()}]):
                return True
            if name in SYSTEM_ROLES or self.find(tx, caller, name).owner != caller.role:
                raise Conflict(f"Role {name} is there already. Choose another name.")
        return False

    def drop(self, caller: Caller, name: str) -> None:
        """What it owned is the caller's role's; what was granted to it, it to others, and its budget end with it.

        PUBLIC takes nothing over, as that would be its users': who drops as PUBLIC leaves it to ACCOUNTADMIN. Conflict
        while something runs that it began: it would go on with the rights, and as the bill, of the caller's.
        """
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.MANAGE, self.find(tx, caller, name), lambda: no_role(name))
            if name in SYSTEM_ROLES:
                raise InvalidInput(f"Role {name} belongs to every account: it cannot be dropped.")
            if name == caller.role:
                raise Conflict(f"Role {name} is your current role. Take another one to drop it.")
            if running := self.unfinished(tx, caller, role=name):
                raise Conflict(f"Role {name} has {running}. Cancel what runs, or wait for its end, and drop it then.")
            heir = caller.model_copy(update={"role": ADMIN_ROLE}) if caller.role == PUBLIC else caller
            for table, column in OWNED_BY_ROLE.items():
                self._pass_on(tx, table, column, heir, name)
            self._rows.pass_on(tx, heir, name)
            self._rows.end_of_role(tx, caller.account, name)
            self.end_budget(tx, caller, budget_scope(BudgetKind.ROLE, name))
            columns = self._role_grants.c
            is_in = sa.or_(
                columns.role == name, sa.and_(columns.granted_to == ObjectKind.ROLE.value, columns.grantee == name)
            )
            tx.execute(sa.delete(self._role_grants).where(columns.account == caller.account, is_in))
            is_it = (self._roles.c.account == caller.account, self._roles.c.name == name)
            tx.execute(sa.delete(self._roles).where(*is_it))

    def grant(self, caller: Caller, name: str, to: Securable) -> None:
        """To a user or to another role, which then holds all that this one does."""
        with self._guard.change(caller) as tx:
            self._check_giver(tx, caller, name)
            self.find(tx, caller, to.name, to.kind)
            holds = self._guard.reachable(tx, caller.account, name, also=())
            if to.kind is ObjectKind.ROLE and to.name in holds:
                raise Conflict(f"Role {to.name} is {name}, or is granted to it: roles form no ring.")
            self._check_no_admin_for_all(tx, caller, name, holds, to)
            row: dict[str, Any] = {
                "account": caller.account,
                "role": name,
                "granted_to": to.kind.value,
                "grantee": to.name,
            }
            row |= {"granted_by": caller.role, "created_on": self._clock()}
            self._store.insert_missing(tx, "role_grants", [row])

    def revoke(self, caller: Caller, name: str, of: Securable) -> None:
        with self._guard.change(caller) as tx:
            self._check_giver(tx, caller, name)
            self.find(tx, caller, of.name, of.kind)
            if name == ADMIN_ROLE and of.kind is ObjectKind.USER:
                self.check_leaves_an_admin(tx, caller, of)
            columns = self._role_grants.c
            is_it = (columns.role == name, columns.granted_to == of.kind.value, columns.grantee == of.name)
            tx.execute(sa.delete(self._role_grants).where(columns.account == caller.account, *is_it))

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None, wanted: Named = ALL) -> list[Role]:
        """Those that the caller's user may take, and what they own; all for who may see all grants. By their names."""
        with self._store.reading() as tx:
            name = self._roles.c.name
            seen = self._seen(tx, caller).where(wanted.of(name))
            return self._told(tx, caller, named_page(seen, name, limit, after))

    def get(self, caller: Caller, name: str) -> Role:
        with self._store.reading() as tx:
            found = self._told(tx, caller, self._seen(tx, caller).where(self._roles.c.name == name))
        if not found:
            raise no_role(name)
        return found[0]

    def held(self, caller: Caller) -> RolesHeld:
        """By a caller, by their names."""
        with self._store.reading() as tx:
            in_session = self._guard.reachable(tx, caller.account, caller.role)
            available = self._access.roles_of(tx, caller.account, caller.user)
        return RolesHeld(in_session=sorted(in_session), available=sorted(available))

    def find(self, tx: sa.Connection, caller: Caller, name: str, kind: ObjectKind = ObjectKind.ROLE) -> Securable:
        """A role, or a user; NotFound if there is none of that name in the account."""
        columns = (self._roles if kind is ObjectKind.ROLE else self._users).c
        query = sa.select(columns.owner).where(columns.account == caller.account, columns.name == name)
        owner = tx.execute(query).scalar()
        if owner is None:
            raise no_role(name) if kind is ObjectKind.ROLE else no_user(name)
        return Securable(kind, name=name, owner=owner)

    def end_budget(self, tx: sa.Connection, caller: Caller, scope: str) -> None:
        """With its role or user. Conflict where it is a hard one and only ACCOUNTADMIN may end it."""
        budget = self._limits.find(tx, caller.account, scope)
        if budget and budget["is_hard"] and not self._guard.may(tx, caller, Action.ADMINISTER):
            kind, _, name = scope.partition(":")
            raise Conflict(f"{kind.capitalize()} {name} has a hard budget: ACCOUNTADMIN has to end it first.")
        self._limits.delete(tx, caller.account, scope)

    def unfinished(self, tx: sa.Connection, caller: Caller, **began: str) -> str:
        """How many jobs, or else batches, with these columns have not ended, in words. Empty: all have."""
        for table, active in ((self._store.table("jobs"), jobs.ACTIVE), (self._store.table("batches"), batches.ACTIVE)):
            theirs = (table.c[column] == value for column, value in began.items())
            query = sa.select(sa.func.count()).where(table.c.account == caller.account, *theirs)
            if num := tx.execute(query.where(table.c.status.in_(active))).scalar_one():
                return f"{num} unfinished {table.name}"
        return ""

    def check_takes(self, tx: sa.Connection, caller: Caller, name: str) -> None:
        """NotFound unless the caller's user may take the role."""
        if name not in self._access.roles_of(tx, caller.account, caller.user):
            raise no_role(name)

    def _check_giver(self, tx: sa.Connection, caller: Caller, name: str) -> None:
        role = self.find(tx, caller, name)
        self._guard.check(tx, caller, Action.GRANT, role, lambda: no_role(name))
        if ADMIN_ROLE in self._guard.reachable(tx, caller.account, name):  # or MANAGE GRANTS would be the same
            self._guard.check(tx, caller, Action.ADMINISTER)
        if name == PUBLIC:
            raise InvalidInput(f"Role {PUBLIC} is everybody's: it is neither granted nor revoked.")

    def _check_no_admin_for_all(
        self, tx: sa.Connection, caller: Caller, name: str, holds: frozenset[str], to: Securable
    ) -> None:
        """PUBLIC never comes to hold ACCOUNTADMIN, whichever grant of a chain comes last."""
        if to.kind is not ObjectKind.ROLE or ADMIN_ROLE not in holds:
            return
        if to.name in self._guard.reachable(tx, caller.account, PUBLIC, also=()):
            what = name if name == ADMIN_ROLE else f"{name}, which holds {ADMIN_ROLE},"
            whose = f"{PUBLIC} is" if to.name == PUBLIC else f"{to.name} is granted to {PUBLIC}, which is"
            raise InvalidInput(f"Role {what} is not granted to {to.name}: {whose} every user's role.")

    def check_leaves_an_admin(self, tx: sa.Connection, caller: Caller, of: Securable) -> None:
        """Conflict when the user is the last whom ACCOUNTADMIN is granted to."""
        columns = self._role_grants.c
        held = (columns.role == ADMIN_ROLE, columns.granted_to == of.kind.value)
        users = tx.execute(sa.select(columns.grantee).where(columns.account == caller.account, *held)).scalars().all()
        if users == [of.name]:
            raise Conflict(f"{of.name} is the last user with role {ADMIN_ROLE}: grant it to another one first.")

    def _pass_on(self, tx: sa.Connection, table: str, column: str, to: Caller, role: str) -> None:
        owned = self._store.table(table)
        is_its = (owned.c.account == to.account, owned.c[column] == role)
        tx.execute(sa.update(owned).where(*is_its).values({column: to.role}))

    def _seen(self, tx: sa.Connection, caller: Caller) -> sa.Select[Any]:
        columns = self._roles.c
        query = sa.select(self._roles).where(columns.account == caller.account)
        if self._guard.may(tx, caller, Action.MANAGE_GRANTS):
            return query
        inherited = self._guard.roles(tx, caller)
        his = self._access.roles_of(tx, caller.account, caller.user) | inherited
        return query.where(sa.or_(columns.name.in_(sorted(his)), columns.owner.in_(sorted(inherited))))

    def _told(self, tx: sa.Connection, caller: Caller, query: sa.Select[Any]) -> list[Role]:
        rows = fetch(tx, query)
        counts = self._counts(tx, caller.account, [row["name"] for row in rows])
        inherited = self._guard.roles(tx, caller)
        return [_to_role(row, caller, inherited, counts) for row in rows]

    def _counts(self, tx: sa.Connection, account: str, names: list[str]) -> dict[tuple[str, str, str], int]:
        """By (column, name, kind of grantee)."""
        columns = self._role_grants.c
        found: dict[tuple[str, str, str], int] = {}
        for column in (columns.role, columns.grantee):
            query = sa.select(column, columns.granted_to, sa.func.count())
            query = query.where(columns.account == account, column.in_(names))
            for name, kind, count in tx.execute(query.group_by(column, columns.granted_to)):
                found[column.name, name, kind] = count
        return found


def no_role(name: str) -> NotFound:
    return NotFound(f"No role {name}. `luthier roles list` shows those there are.")


def no_user(name: str) -> NotFound:
    return NotFound(f"No user {name}. `luthier users list` shows those there are.")


def _to_role(
    row: dict[str, Any], caller: Caller, inherited: frozenset[str], counts: dict[tuple[str, str, str], int]
) -> Role:
    name, role = row["name"], ObjectKind.ROLE.value
    return Role(
        **{field: row[field] for field in ("name", "owner", "comment", "created_on")},
        is_current=name == caller.role,
        is_inherited=name != caller.role and name in inherited,
        assigned_to_users=counts.get(("role", name, ObjectKind.USER.value), 0),
        granted_to_roles=counts.get(("role", name, role), 0),
        granted_roles=counts.get(("grantee", name, role), 0),
    )
