"""Rows of databases and schemas: found, added, removed. No verbs: those stand in databases.py."""

from typing import Any

import sqlalchemy as sa

from luthier.errors import LuthierError, NotFound
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.registry.grant_rows import GrantRows
from luthier.platform.registry.objects import lies_in
from luthier.platform.securables import IN_SCHEMA, PLACES, ObjectKind, Privilege, Securable
from luthier.platform.store import Store, exists


class PlaceRows:
    """A schema's row has its name, a database's an empty one. Who owns a place has OWNERSHIP granted on it."""

    def __init__(self, store: Store) -> None:
        self._store, self._grants = store, GrantRows(store)
        self.places, self._imported = store.table("places"), store.table("imported_databases")

    def add(self, tx: sa.Connection, owner: Caller, place: Securable, now: int, comment: str = "") -> bool:
        """False if it is there already, whoever owns it."""
        row = {"account": owner.account, "database": place.database, "schema": place.schema}
        if not self._store.insert_missing(tx, "places", [{**row, "comment": comment, "created_on": now}]):
            return False
        self._grants.add(tx, owner, [(Privilege.OWNERSHIP, place)], owner.role, now)
        return True

    def add_home(self, tx: sa.Connection, account: str, home: Securable, now: int) -> None:
        """Where names without a database and schema are looked for."""
        founder = Caller(account=account, user=ADMIN_USER, role=ADMIN_ROLE)
        for place in (home.in_database, home):
            self.add(tx, founder, place, now)

    def homeless(self, tx: sa.Connection, home: Securable) -> list[str]:
        """Accounts that do not have it yet: the settings may name another than they began with."""
        accounts = self._store.table("accounts").c
        has_it = sa.exists().where(self.is_it(accounts.name, home))
        return list(tx.execute(sa.select(accounts.name).where(~has_it)).scalars())

    def check_there(self, tx: sa.Connection, account: str, place: Securable) -> None:
        if not exists(tx, self.is_it(account, place)):
            raise no_place(place)

    def has_in(self, tx: sa.Connection, account: str, place: Securable, table: str) -> bool:
        """Tables, views or models."""
        return exists(tx, lies_in(self._store.table(table), account, place))

    def end(self, tx: sa.Connection, account: str, place: Securable) -> None:
        """With its schemas, and all that is granted there, now and in future."""
        tx.execute(sa.delete(self.places).where(lies_in(self.places, account, place)))
        for table in (self._grants.grants, self._grants.shared):
            is_object = table.c.kind.in_([kind.value for kind in (*PLACES, *IN_SCHEMA)])
            tx.execute(sa.delete(table).where(is_object, lies_in(table, account, place)))
        if place.kind is ObjectKind.DATABASE:
            columns = self._imported.c
            tx.execute(sa.delete(self._imported).where(columns.account == account, columns.name == place.database))

    def is_it(self, account: str | sa.ColumnElement[str], place: Securable) -> sa.ColumnElement[bool]:
        columns = self.places.c
        same = (columns.database == place.database, columns.schema == place.schema)
        return sa.and_(columns.account == account, *same)

    def owners(self, tx: sa.Connection, account: str) -> dict[Securable, str]:
        columns = self._grants.grants.c
        query = sa.select(columns.kind, columns.database, columns.schema, columns.grantee).where(
            columns.account == account, columns.privilege == Privilege.OWNERSHIP.value
        )
        return {
            Securable(ObjectKind(kind), database, schema): role for kind, database, schema, role in tx.execute(query)
        }


def place_of(row: Any) -> Securable:
    kind = ObjectKind.SCHEMA if row["schema"] else ObjectKind.DATABASE
    return Securable(kind, row["database"], row["schema"])


def no_place(place: Securable) -> LuthierError:
    kind = place.kind.lower()
    return NotFound(f"No {kind} {place.dotted}. `luthier {kind}s list` shows those there are.")
