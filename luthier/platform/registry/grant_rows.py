"""Rows of grants: written, and removed with what they are on. No verbs: those stand in grants.py."""

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from luthier.platform.access import Caller
from luthier.platform.registry.guard import is_on
from luthier.platform.securables import Granted, ObjectKind, Privilege, Scope, Securable
from luthier.platform.store import Store

PARTS = ("kind", "database", "schema", "name")
Objects = sa.Select[Any]
"""What is granted on, as a query of these parts: one object, or as many as there are."""


class GrantRows:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.grants, self.shared = store.table("grants"), store.table("share_grants")

    def add(
        self, tx: sa.Connection, by: Caller, on: Iterable[tuple[Privilege, Securable]], grantee: str, now: int
    ) -> None:
        """One that is there already stays as it is."""
        shared = {"account": by.account, "grantee": grantee, "granted_by": by.role}
        rows: list[Mapping[str, Any]] = [
            {**shared, **place_of(place), "privilege": privilege.value, "is_future": False, "created_on": now}
            for privilege, place in on
        ]
        self._store.insert_missing(tx, "grants", rows)

    def add_all(self, tx: sa.Connection, by: Caller, granted: Granted, on: Objects, grantee: str, now: int) -> None:
        """A statement for each privilege, however many objects there are; OWNERSHIP is passed on otherwise."""
        given = {"account": by.account, "grantee": grantee, "granted_by": by.role, "created_on": now}
        for privilege in (each for each in granted.privileges if each is not Privilege.OWNERSHIP):
            row = {**given, "privilege": privilege.value, "is_future": granted.scope is Scope.FUTURE}
            self._store.copy_missing(tx, "grants", on.add_columns(*literals(self.grants, row)))

    def remove_all(self, tx: sa.Connection, account: str, granted: Granted, on: Objects, grantee: str) -> None:
        columns = self.grants.c
        tx.execute(
            sa.delete(self.grants).where(
                columns.account == account,
                columns.grantee == grantee,
                columns.privilege.in_([each.value for each in granted.privileges]),
                columns.is_future == (granted.scope is Scope.FUTURE),
                is_among(self.grants, on),
            )
        )

    def begin(self, tx: sa.Connection, owner: Caller, made: Securable, now: int) -> None:
        """A table or model has been made: the schema's future grants are on it from now on."""
        columns = self.grants.c
        query = sa.select(columns.privilege, columns.grantee, columns.granted_by).where(
            columns.account == owner.account,
            columns.is_future,
            is_on(self.grants, Securable(made.kind, made.database, made.schema)),
        )
        for privilege, grantee, granted_by in tx.execute(query).all():
            by = owner.model_copy(update={"role": granted_by})
            self.add(tx, by, [(Privilege(privilege), made)], grantee, now)

    def end(self, tx: sa.Connection, account: str, gone: Securable) -> None:
        """What is granted on an object ends with it: one of the same name later begins with nothing."""
        is_its = (self.grants.c.account == account, is_on(self.grants, gone), ~self.grants.c.is_future)
        tx.execute(sa.delete(self.grants).where(*is_its))
        tx.execute(sa.delete(self.shared).where(self.shared.c.account == account, is_on(self.shared, gone)))

    def end_of_role(self, tx: sa.Connection, account: str, role: str) -> None:
        tx.execute(sa.delete(self.grants).where(self.grants.c.account == account, self.grants.c.grantee == role))

    def pass_on(self, tx: sa.Connection, to: Caller, role: str) -> None:
        """OWNERSHIP of databases and schemas, from a role that ends."""
        columns = self.grants.c
        is_owner = (columns.grantee == role, columns.privilege == Privilege.OWNERSHIP.value)
        owned = sa.update(self.grants).where(columns.account == to.account, *is_owner)
        tx.execute(owned.values(grantee=to.role))

    def replace_owner(self, tx: sa.Connection, by: Caller, on: Securable, grantee: str, now: int) -> None:
        """Of a database or schema: OWNERSHIP passes from who had it."""
        columns = self.grants.c
        is_owner = columns.privilege == Privilege.OWNERSHIP.value
        tx.execute(sa.delete(self.grants).where(columns.account == by.account, is_owner, is_on(self.grants, on)))
        self.add(tx, by, [(Privilege.OWNERSHIP, on)], grantee, now)


def objects(on: Securable) -> Objects:
    """One."""
    parts: Iterable[sa.Label[Any]] = (sa.literal(value).label(name) for name, value in place_of(on).items())
    return sa.select(*parts)


def objects_of(kind: ObjectKind, table: sa.Table, *which: sa.ColumnElement[bool]) -> Objects:
    """Tables or models."""
    parts = (table.c[name] for name in PARTS[1:])
    return sa.select(sa.literal(kind.value).label(PARTS[0]), *parts).where(*which)


def is_among(grants: sa.Table, on: Objects) -> sa.ColumnElement[bool]:
    return sa.tuple_(*(grants.c[name] for name in PARTS)).in_(on)


def literals(table: sa.Table, row: Mapping[str, Any]) -> Iterable[sa.Label[Any]]:
    """Values for columns of a table, beside those that a query gives."""
    return (sa.literal(value, table.c[name].type).label(name) for name, value in row.items())


def place_of(on: Securable) -> dict[str, str]:
    return {"kind": on.kind.value, "database": on.database, "schema": on.schema, "name": on.name}


def future(kind: ObjectKind, schema: Securable) -> Securable:
    """What stands for all objects of a kind that will be in a schema."""
    return Securable(kind, schema.database, schema.schema)
