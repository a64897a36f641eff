"""Verbs on users: made, changed, dropped, shown."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.credits import BudgetKind, budget_scope
from luthier.platform.frozen import Frozen
from luthier.platform.metering import check_name
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.paging import ALL, MAX_SHOWN, Named, named_page
from luthier.platform.registry.roles import Roles, no_user
from luthier.platform.securables import PUBLIC, ObjectKind
from luthier.platform.store import Store, fetch, fetch_first


class User(Frozen):
    name: str
    default_role: str | None
    owner: str
    comment: str
    created_on: int


class Users:
    def __init__(self, store: Store, guard: Guard, roles: Roles, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._roles, self._clock = store, guard, roles, clock
        self._jobs, self._batches, self._files = map(store.table, ("jobs", "batches", "files"))
        self._users, self._keys, self._role_grants = map(store.table, ("users", "keys", "role_grants"))
        self._dropped = store.table("dropped_users")

    def create(self, caller: Caller, name: str, default_role: str | None = None, comment: str = "") -> bool:
        """By who may create users; False when the caller's role had made the same before. He has no key yet.

        His default role is not granted to him by that.
        """
        made = {"account": caller.account, "name": name, "owner": caller.role, "comment": comment}
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.CREATE_USER)
            check_name(name)
            if default_role is not None:
                self._roles.find(tx, caller, default_role)
            row = {**made, "default_role": default_role, "created_on": self._clock()}
            if self._store.insert_missing(tx, "users", [row]):
                tx.execute(sa.delete(self._dropped).where(*_is_he(self._dropped, caller.account, name)))
                return True
            if self._roles.find(tx, caller, name, ObjectKind.USER).owner != caller.role:
                raise Conflict(f"User {name} is there already. Choose another name.")
        return False

    def set_default_role(self, caller: Caller, name: str, role: str | None) -> None:
        """By who may change the user; by himself to one that he has. None: he has none."""
        with self._guard.change(caller) as tx:
            user = self._roles.find(tx, caller, name, ObjectKind.USER)
            is_own = name == caller.user and not self._guard.may(tx, caller, Action.MANAGE, user)
            if not is_own:
                self._guard.check(tx, caller, Action.MANAGE, user, lambda: no_user(name))
            if role is not None:
                (self._roles.check_takes if is_own else self._roles.find)(tx, caller, role)
            his = sa.update(self._users).where(*_is_he(self._users, caller.account, name))
            tx.execute(his.values(default_role=role))

    def drop(self, caller: Caller, name: str) -> None:
        """His keys are revoked, his budget ends; what he made stays his role's, or is ACCOUNTADMIN's. His name is kept:
        none but `create` makes one of that name again.

        Conflict while something runs that he began as PUBLIC: it would go on with other rights.
        """
        with self._guard.change(caller) as tx:
            user = self._roles.find(tx, caller, name, ObjectKind.USER)
            self._guard.check(tx, caller, Action.MANAGE, user, lambda: no_user(name))
            if name == caller.user:
                raise Conflict(f"User {name} is you. Another one has to drop you.")
            self._roles.check_leaves_an_admin(tx, caller, user)
            if running := self._roles.unfinished(tx, caller, role=PUBLIC, owner=name):
                raise Conflict(
                    f"User {name} has {running} that he began as {PUBLIC}. Revoke his keys, cancel what runs, and drop "
                    "him then."
                )
            keys, granted = self._keys.c, self._role_grants.c
            his = (keys.account == caller.account, keys.user == name, keys.revoked_on.is_(None))
            tx.execute(sa.update(self._keys).where(*his).values(revoked_on=self._clock()))
            is_to_him = (granted.granted_to == ObjectKind.USER.value, granted.grantee == name)
            tx.execute(sa.delete(self._role_grants).where(granted.account == caller.account, *is_to_him))
            self._roles.end_budget(tx, caller, budget_scope(BudgetKind.USER, name))
            for made in (self._jobs, self._batches, self._files):
                is_his = (made.c.account == caller.account, made.c.role == PUBLIC, made.c.owner == name)
                tx.execute(sa.update(made).where(*is_his).values(role=ADMIN_ROLE))
            tx.execute(sa.delete(self._users).where(*_is_he(self._users, caller.account, name)))
            dropped = {"account": caller.account, "name": name, "dropped_on": self._clock()}
            self._store.insert_missing(tx, "dropped_users", [dropped])

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None, wanted: Named = ALL) -> list[User]:
        """Oneself, and those that one's roles own; all for who may see all grants. By their names."""
        with self._store.reading() as tx:
            name = self._users.c.name
            page = named_page(self._seen(tx, caller).where(wanted.of(name)), name, limit, after)
            return [_to_user(row) for row in fetch(tx, page)]

    def get(self, caller: Caller, name: str) -> User:
        with self._store.reading() as tx:
            row = fetch_first(tx, self._seen(tx, caller).where(self._users.c.name == name))
        if row is None:
            raise no_user(name)
        return _to_user(row)

    def _seen(self, tx: sa.Connection, caller: Caller) -> sa.Select[Any]:
        columns = self._users.c
        query = sa.select(self._users).where(columns.account == caller.account)
        if self._guard.may(tx, caller, Action.MANAGE_GRANTS):
            return query
        roles = sorted(self._guard.roles(tx, caller))
        return query.where(sa.or_(columns.name == caller.user, columns.owner.in_(roles)))


def _is_he(table: sa.Table, account: str, name: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return table.c.account == account, table.c.name == name


def _to_user(row: dict[str, Any]) -> User:
    return User(**{field: row[field] for field in User.model_fields})
