"""Verbs on grants of privileges to roles: given, revoked, shown."""

from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, LuthierError, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.frozen import Frozen
from luthier.platform.names import QualifiedName
from luthier.platform.privileges import Action
from luthier.platform.registry.grant_rows import GrantRows, Objects, objects, objects_of
from luthier.platform.registry.guard import Guard, is_on
from luthier.platform.registry.objects import lies_in, no_model, no_table, no_view
from luthier.platform.registry.paging import MAX_SHOWN, Part, joined_page
from luthier.platform.registry.place_rows import PlaceRows, no_place
from luthier.platform.registry.roles import Roles, no_role, no_user
from luthier.platform.registry.share_rows import ShareRows, place_in
from luthier.platform.securables import (
    ALL_MODELS,
    DATABASE_ROLES,
    IN_SCHEMA,
    OWNED,
    PLACES,
    SYSTEM_ROLES,
    Granted,
    ObjectKind,
    Privilege,
    Scope,
    Securable,
    check_grantable,
)
from luthier.platform.store import Store, exists, fetch_first


class Grant(Frozen):
    """A row of SHOW GRANTS."""

    created_on: int
    privilege: str
    granted_on: str
    name: str
    granted_to: str = ObjectKind.ROLE.value
    grantee_name: str
    grant_option: bool = False
    granted_by: str


class RoleGrant(Frozen):
    """A row of SHOW GRANTS OF ROLE, and of SHOW GRANTS TO USER."""

    created_on: int
    role: str
    granted_to: str
    grantee_name: str
    granted_by: str


class Grants:
    def __init__(self, store: Store, guard: Guard, roles: Roles, catalog: Catalog, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._roles, self._catalog, self._clock = store, guard, roles, catalog, clock
        self._rows, self._places, self._shares = GrantRows(store), PlaceRows(store), ShareRows(store)
        self._grants, self._role_grants = self._rows.grants, store.table("role_grants")
        self._owned = {kind: store.table(f"{kind.lower()}s") for kind in OWNED}

    def grant(self, caller: Caller, granted: Granted, role: str) -> int:
        """By who owns it, or may manage all grants; on how many objects it is now. OWNERSHIP passes on."""
        check_grantable(granted.on.kind, granted.privileges)
        with self._guard.change(caller) as tx:
            objects, num = self.grantable(tx, caller, granted)
            self._roles.find(tx, caller, role)
            self._check_imported(tx, caller, granted)
            if granted.is_ownership and granted.ends_others:
                self._rows.end(tx, caller.account, granted.on)
            if granted.is_ownership:
                self._pass_on(tx, caller, granted.on, role)
            self._rows.add_all(tx, caller, granted, objects, role, self._clock())
        return num

    def revoke(self, caller: Caller, granted: Granted, role: str) -> int:
        check_grantable(granted.on.kind, granted.privileges)
        if granted.is_ownership:
            raise InvalidInput(f"OWNERSHIP of a {granted.on.kind} is not revoked: grant it to another role.")
        with self._guard.change(caller) as tx:
            objects, num = self.grantable(tx, caller, granted)
            self._roles.find(tx, caller, role)
            self._rows.remove_all(tx, caller.account, granted, objects, role)
        return num

    def check(self, caller: Caller, action: Action) -> None:
        """NotAllowed unless the caller may do this in his account."""
        with self._store.reading() as tx:
            self._guard.check(tx, caller, action)

    # what is shown: of each so many, behind as many as are skipped

    def to_role(self, caller: Caller, role: str, limit: int = MAX_SHOWN, skip: int = 0) -> list[Grant]:
        """What a role that the caller has holds by itself."""
        with self._store.reading() as tx:
            self._check_seen(tx, caller, role)
            columns = self._grants.c
            found = self._granted(columns.account == caller.account, columns.grantee == role, ~columns.is_future)
            owned = [self._ownerships(caller, kind, self._owner(kind) == role) for kind in OWNED]
            members = self._role_rows(caller, granted_to=ObjectKind.ROLE.value, grantee=role)
            return joined_page(tx, [found, *owned, (members, _usage)], limit, skip)

    def on(self, caller: Caller, about: Securable, limit: int = MAX_SHOWN, skip: int = 0) -> list[Grant]:
        """What is granted on an object that the caller may see."""
        with self._store.reading() as tx:
            found, columns = self._seen(tx, caller, about), self._grants.c
            is_owned = about.kind in OWNED
            owned = [self._ownerships(caller, about.kind, *self._is(caller, found))] if is_owned else []
            given = self._granted(columns.account == caller.account, is_on(self._grants, found), ~columns.is_future)
            to_shares = (self._shares.grants.c.account == caller.account, is_on(self._shares.grants, found))
            return joined_page(tx, [*owned, given, (self._shares.given(*to_shares), shared)], limit, skip)

    def of_role(self, caller: Caller, role: str, limit: int = MAX_SHOWN, skip: int = 0) -> list[RoleGrant]:
        """Who has a role."""
        with self._store.reading() as tx:
            self._check_seen(tx, caller, role)
            return joined_page(tx, [(self._role_rows(caller, role=role), _to_role_grant)], limit, skip)

    def to_user(self, caller: Caller, user: str, limit: int = MAX_SHOWN, skip: int = 0) -> list[RoleGrant]:
        """His roles, for himself and for who may see all grants."""
        with self._store.reading() as tx:
            if user != caller.user and not self._guard.may(tx, caller, Action.MANAGE_GRANTS):
                raise no_user(user)
            self._roles.find(tx, caller, user, ObjectKind.USER)
            rows = self._role_rows(caller, granted_to=ObjectKind.USER.value, grantee=user)
            return joined_page(tx, [(rows, _to_role_grant)], limit, skip)

    def future(self, caller: Caller, place: Securable, limit: int = MAX_SHOWN, skip: int = 0) -> list[Grant]:
        """What will be granted on objects of a place, for who may grant it."""
        columns = self._grants.c
        its = (columns.account == caller.account, columns.is_future, columns.database == place.database)
        with self._store.reading() as tx:
            self._check_grants_in(tx, caller, place)
            return joined_page(tx, [self._granted(*its, columns.schema == place.schema)], limit, skip)

    def future_to(self, caller: Caller, role: str, limit: int = MAX_SHOWN, skip: int = 0) -> list[Grant]:
        """What a role that the caller has will be granted."""
        columns = self._grants.c
        its = (columns.account == caller.account, columns.is_future, columns.grantee == role)
        with self._store.reading() as tx:
            self._check_seen(tx, caller, role)
            return joined_page(tx, [self._granted(*its)], limit, skip)

    # what is granted on

    def grantable(self, tx: sa.Connection, caller: Caller, granted: Granted) -> tuple[Objects, int]:
        """The objects that are meant, which the caller may grant privileges on, and how many they are."""
        about = granted.on
        if granted.scope is Scope.ONE:
            found = self._find(tx, caller, about)
            self._guard.check(tx, caller, Action.GRANT, found, lambda: self._none(about))
            return objects(found), 1
        if about.kind not in IN_SCHEMA or granted.is_ownership:
            raise InvalidInput(f"{granted.scope} is for {' and '.join(IN_SCHEMA)} in a schema, and not for OWNERSHIP.")
        if granted.scope is Scope.FUTURE:
            self._check_grants_in(tx, caller, about.in_schema)
            return objects(about), 1
        return self._all_in(tx, caller, about)

    def _all_in(self, tx: sa.Connection, caller: Caller, about: Securable) -> tuple[Objects, int]:
        """Who may grant on a table or model is decided by its owner: by so many decisions as there are owners."""
        self._check_schema_seen(tx, caller, about.in_schema)
        table = self._owned[about.kind]
        in_place, owner = lies_in(table, caller.account, about), self._owner(about.kind)
        owners = tx.execute(sa.select(owner).where(in_place).distinct()).scalars().all()
        rows = [{"database": about.database, "schema": about.schema, "name": "", "role": each} for each in owners]
        allowed = self._guard.allowed(tx, caller, Action.GRANT, about.kind, rows)
        query = objects_of(about.kind, table, in_place, owner.in_([row["role"] for row in allowed]))
        return query, tx.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()

    def _check_grants_in(self, tx: sa.Connection, caller: Caller, place: Securable) -> None:
        self._guard.check(tx, caller, Action.GRANT, place)
        self._places.check_there(tx, caller.account, place)

    def _check_schema_seen(self, tx: sa.Connection, caller: Caller, schema: Securable) -> None:
        self._places.check_there(tx, caller.account, schema)
        is_seen = self._guard.rights(tx, caller, schema).sees(schema)
        if not is_seen and not self._guard.may(tx, caller, Action.MANAGE_GRANTS):
            raise no_place(schema)

    def _find(self, tx: sa.Connection, caller: Caller, about: Securable) -> Securable:
        """With its owner; as if it were not there where it is not."""
        if about.kind is ObjectKind.ROLE:
            return self._roles.find(tx, caller, about.name)
        if about.kind is ObjectKind.DATABASE_ROLE and about not in DATABASE_ROLES:
            there = ", ".join(each.dotted for each in DATABASE_ROLES)
            raise NotFound(f"No database role {about.dotted}: there are {there}.")
        if about.kind is ObjectKind.BASE_MODEL and about.name != ALL_MODELS:
            return Securable(about.kind, name=self._catalog.get(about.name).name)
        if about.kind in PLACES:
            self._places.check_there(tx, caller.account, about)
        if about.kind not in OWNED:
            return about
        row = fetch_first(tx, self._select(caller, about))
        if row is None:
            raise self._none(about)
        return Securable(about.kind, about.database, about.schema, about.name, row["owned_by"])

    def _seen(self, tx: sa.Connection, caller: Caller, about: Securable) -> Securable:
        found = self._find(tx, caller, about)
        if not self._guard.rights(tx, caller, found).sees(found):
            raise self._none(about)
        if about.kind not in (*OWNED, *PLACES):  # these are no secret, but who holds what on them is
            self._guard.check(tx, caller, Action.GRANT, found)
        return found

    def _none(self, about: Securable) -> LuthierError:
        nameless = {ObjectKind.ROLE: no_role, ObjectKind.USER: no_user, ObjectKind.SHARE: no_share}
        if about.kind in nameless:
            return nameless[about.kind](about.name)
        if about.kind in PLACES:
            return no_place(about)
        name = QualifiedName(about.database, about.schema, about.name, about.dotted)
        in_schema = {ObjectKind.MODEL: no_model, ObjectKind.VIEW: no_view}
        return in_schema.get(about.kind, no_table)(name)

    def _check_imported(self, tx: sa.Connection, caller: Caller, granted: Granted) -> None:
        """On a database that was made of a share IMPORTED PRIVILEGES are granted, and on others they are not."""
        on = granted.on
        if Privilege.IMPORTED not in granted.privileges and not (
            on.kind is ObjectKind.DATABASE and granted.is_ownership
        ):
            self._shares.check_own(tx, caller.account, on.database)
        elif Privilege.IMPORTED in granted.privileges and not self._shares.is_imported(tx, caller.account, on.database):
            raise InvalidInput(f"{Privilege.IMPORTED} are on a database that was made of a share: {on} was not.")

    def _pass_on(self, tx: sa.Connection, caller: Caller, on: Securable, role: str) -> None:
        if on.kind is ObjectKind.ROLE and on.name in SYSTEM_ROLES:
            raise InvalidInput(f"Role {on.name} belongs to every account: nobody else owns it.")
        if on.kind is ObjectKind.VIEW:
            self._check_readers(tx, caller, on, role)
        if on.kind not in OWNED:
            self._rows.replace_owner(tx, caller, on, role, self._clock())
            return
        table = self._owned[on.kind]
        tx.execute(sa.update(table).where(*self._is(caller, on)).values({self._owner(on.kind).name: role}))

    def _check_readers(self, tx: sa.Connection, caller: Caller, view: Securable, role: str) -> None:
        """A view is read with its owner's rights: who lets others read it lends no rights that he has not."""
        if role in self._guard.roles(tx, caller) or self._guard.may(tx, caller, Action.MANAGE_GRANTS):
            return
        for grants in (self._grants, self._shares.grants):
            if exists(tx, grants.c.account == caller.account, is_on(grants, view)):
                raise Conflict(
                    f"There are grants on {view}, and with role {role} as its owner they would be of that role's "
                    f"rights. Revoke them first (SHOW GRANTS ON {view}), or let somebody grant it who has role {role}, "
                    f"or MANAGE GRANTS ON ACCOUNT."
                )

    # rows

    def _granted(self, *its: sa.ColumnElement[bool]) -> Part[Grant]:
        return sa.select(self._grants).where(*its).order_by(self._grants.c.id), _to_grant

    def _ownerships(self, caller: Caller, kind: ObjectKind, *its: sa.ColumnElement[bool]) -> Part[Grant]:
        table = self._owned[kind]
        query = sa.select(table, self._owner(kind).label("owned_by")).where(table.c.account == caller.account, *its)
        places = [table.c[name] for name in ("database", "schema") if name in table.c]
        return query.order_by(table.c.created_on, table.c.name, *places), partial(_ownership, kind)

    def _role_rows(self, caller: Caller, **its: str) -> sa.Select[Any]:
        columns = self._role_grants.c
        query = sa.select(self._role_grants).where(
            columns.account == caller.account, *(columns[name] == value for name, value in its.items())
        )
        return query.order_by(columns.created_on, columns.role, columns.granted_to, columns.grantee)

    def _check_seen(self, tx: sa.Connection, caller: Caller, role: str) -> None:
        found = self._roles.find(tx, caller, role)
        is_seen = self._guard.rights(tx, caller, found).sees(found)
        if not is_seen and not self._guard.may(tx, caller, Action.MANAGE_GRANTS):
            raise no_role(role)

    def _select(self, caller: Caller, about: Securable) -> sa.Select[Any]:
        return sa.select(self._owner(about.kind).label("owned_by")).where(*self._is(caller, about))

    def _is(self, caller: Caller, about: Securable) -> list[sa.ColumnElement[bool]]:
        columns = self._owned[about.kind].c
        places = [columns.database == about.database, columns.schema == about.schema] if about.schema else []
        return [columns.account == caller.account, columns.name == about.name, *places]

    def _owner(self, kind: ObjectKind) -> sa.ColumnElement[Any]:
        columns = self._owned[kind].c
        column: sa.Column[Any] = columns.role if kind in IN_SCHEMA else columns.owner
        return column


def no_share(name: str) -> NotFound:
    return NotFound(f"No share {name}. `luthier shares list` shows those there are.")


def shared(row: dict[str, Any]) -> Grant:
    """To a share, of a row of ShareRows.granted."""
    return Grant(
        **{key: row[key] for key in ("created_on", "privilege", "granted_by")},
        granted_on=row["kind"],
        name=place_in(row).dotted,
        granted_to=ObjectKind.SHARE.value,
        grantee_name=row["share_name"],
    )


def _to_grant(row: dict[str, Any]) -> Grant:
    on = place_in(row)
    kind = on.kind
    name = f"{on.dotted}.<{kind}>" if row["is_future"] else on.dotted
    return Grant(
        created_on=row["created_on"],
        privilege=row["privilege"],
        granted_on=kind.value,
        name=name,
        grantee_name=row["grantee"],
        grant_option=row["privilege"] == Privilege.OWNERSHIP.value,
        granted_by=row["granted_by"],
    )


def _ownership(kind: ObjectKind, row: dict[str, Any]) -> Grant:
    return Grant(
        created_on=row["created_on"],
        privilege=Privilege.OWNERSHIP.value,
        granted_on=kind.value,
        name=Securable(kind, row.get("database", ""), row.get("schema", ""), row["name"]).dotted,
        grantee_name=row["owned_by"],
        grant_option=True,
        granted_by=row["owned_by"],
    )


def _usage(row: dict[str, Any]) -> Grant:
    """A role that is granted to a role, as SHOW GRANTS TO ROLE has it."""
    return Grant(
        created_on=row["created_on"],
        privilege=Privilege.USAGE.value,
        granted_on=ObjectKind.ROLE.value,
        name=row["role"],
        grantee_name=row["grantee"],
        granted_by=row["granted_by"],
    )


def _to_role_grant(row: dict[str, Any]) -> RoleGrant:
    kept = {name: row[name] for name in ("created_on", "role", "granted_to", "granted_by")}
    return RoleGrant(**kept, grantee_name=row["grantee"])
