"""Verbs on databases and the schemas in them: made, dropped, shown."""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.frozen import Frozen
from luthier.platform.names import quote_if_needed
from luthier.platform.privileges import Action, Rights
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.models import Models
from luthier.platform.registry.objects import lies_in
from luthier.platform.registry.paging import ALL, MAX_SHOWN, Named
from luthier.platform.registry.place_rows import PlaceRows, no_place, place_of
from luthier.platform.registry.share_rows import ShareRows
from luthier.platform.registry.tables import Gone, Tables
from luthier.platform.registry.views import Views
from luthier.platform.securables import ENGINE_OWN, RESERVED, SHARED_SCHEMA, ObjectKind, Securable, is_taken
from luthier.platform.store import Store, fetch

HELD = ("tables", "views", "models")


class Place(Frozen):
    """A database, or a schema in one."""

    name: str
    database: str = ""
    """Of a schema."""
    owner: str
    comment: str
    created_on: int
    is_default: bool
    """Where names without one are looked for."""
    origin: str | None = None
    """The share that a database was made of, ACCOUNT.SHARE; empty where it is open no more."""

    @property
    def dotted(self) -> str:
        return ".".join(quote_if_needed(part) for part in (self.database, self.name) if part)


class Databases:
    def __init__(
        self,
        store: Store,
        guard: Guard,
        holds: tuple[Tables, Views, Models],
        home: Securable,
        clock: Callable[[], int],
    ) -> None:
        """`home` is the schema in which names without one are looked for; every account has it."""
        self._store, self._guard, self._home, self._clock = store, guard, home, clock
        self._tables, self._views, self._models = holds
        self._rows, self._shares = PlaceRows(store), ShareRows(store)
        with store.transaction() as tx:
            for account in self._rows.homeless(tx, home):
                self._rows.add_home(tx, account, home, clock())

    def create(self, caller: Caller, place: Securable, comment: str = "") -> bool:
        """False when the caller's role had made it before. A database begins with a schema PUBLIC."""
        if is_taken(place.database) or is_taken(place.schema):
            raise InvalidInput(f"{', '.join((*RESERVED, *ENGINE_OWN))} are the platform's own names. Choose another.")
        is_database, now = place.kind is ObjectKind.DATABASE, self._clock()
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.CREATE_DATABASE if is_database else Action.CREATE_SCHEMA, place)
            if not is_database:
                self._rows.check_there(tx, caller.account, place.in_database)
                self._shares.check_own(tx, caller.account, place.database)
            if self._rows.add(tx, caller, place, now, comment):
                if is_database:
                    self._rows.add(tx, caller, Securable(ObjectKind.SCHEMA, place.database, SHARED_SCHEMA), now)
                return True
            if self._rows.owners(tx, caller.account).get(place) != caller.role:
                raise Conflict(f"{place} is there already. Choose another name.")
        return False

    def drop(self, caller: Caller, place: Securable, cascade: bool = False) -> list[Gone]:
        """With `cascade` also what lies in it; the tables that are gone, whose files are to be removed."""
        with self._guard.change(caller) as tx:
            self._rows.check_there(tx, caller.account, place)
            self._guard.check(tx, caller, Action.MANAGE, place, lambda: no_place(place))
            if place.database == self._home.database and place.schema in ("", self._home.schema):
                raise InvalidInput(f"{place} is where names without one are looked for: it stays.")
            if self._models.are_made_in(tx, caller, place):
                raise Conflict(f"A job is making a model in {place}. Wait for it, or cancel it.")
            if not cascade and any(self._rows.has_in(tx, caller.account, place, name) for name in HELD):
                raise Conflict(f"{place} is not empty. Drop first what lies in it, or say CASCADE (--cascade).")
            self._models.remove(tx, caller, lies_in(self._store.table("models"), caller.account, place))
            self._views.remove(tx, caller, place)
            gone = self._tables.remove(tx, caller, place)
            self._rows.end(tx, caller.account, place)
        return gone

    def show(
        self,
        caller: Caller,
        kind: ObjectKind,
        database: str | None = None,
        limit: int = MAX_SHOWN,
        after: Securable | None = None,
        wanted: Named = ALL,
    ) -> list[Place]:
        """Databases, or schemas of all or of one, on which the caller holds something. By their names; schemas that
        are shared with his account behind its own.
        """
        columns = self._rows.places.c
        its = [columns.account == caller.account]
        its += [columns.schema == ""] if kind is ObjectKind.DATABASE else [columns.schema != ""]
        its += [columns.database == database] if database is not None else []
        its.append(wanted.of(columns.database if kind is ObjectKind.DATABASE else columns.schema))
        if after:
            here = sa.and_(columns.database == after.database, columns.schema > after.schema)
            its.append(sa.or_(columns.database > after.database, here))
        query = sa.select(self._rows.places).where(*its).order_by(columns.database, columns.schema)
        with self._store.reading() as tx:
            owners, rights = self._rows.owners(tx, caller.account), self._guard.rights_on_places(tx, caller)
            if database is not None:
                self._check_seen(tx, caller, rights, Securable(ObjectKind.DATABASE, database))
            origins, limit = self._shares.origins(tx, caller.account), min(limit, MAX_SHOWN)
            if kind is ObjectKind.SCHEMA and after and after.database in origins:
                return self._shared(tx, caller, rights, database, after)[:limit]
            seen = islice((row for row in fetch(tx, query) if rights.sees(place_of(row))), limit)
            told = [self._told(row, owners.get(place_of(row), ADMIN_ROLE), origins) for row in seen]
            if kind is ObjectKind.SCHEMA:
                told += self._shared(tx, caller, rights, database)
            return told[:limit]

    def check_seen(self, caller: Caller, place: Securable) -> None:
        """NotFound for a database or schema that is not there, or that the caller does not see."""
        with self._store.reading() as tx:
            self._check_seen(tx, caller, self._guard.rights_on_places(tx, caller), place)

    def get(self, caller: Caller, place: Securable) -> Place:
        """One that the caller has just made."""
        columns = self._rows.places.c
        its = (columns.account == caller.account, columns.database == place.database, columns.schema == place.schema)
        with self._store.reading() as tx:
            (row,) = fetch(tx, sa.select(self._rows.places).where(*its))
            return self._told(row, self._rows.owners(tx, caller.account).get(place, ADMIN_ROLE))

    def _check_seen(self, tx: sa.Connection, caller: Caller, rights: Rights, place: Securable) -> None:
        is_shared = place in self._shares.schemas(tx, caller.account, place.database)
        its = place.in_database if is_shared else place
        self._rows.check_there(tx, caller.account, its)
        if not rights.sees(its):
            raise no_place(place)

    def _shared(
        self, tx: sa.Connection, caller: Caller, rights: Rights, database: str | None, after: Securable | None = None
    ) -> list[Place]:
        """Schemas of databases that were made of shares: who sees the database sees them."""
        found = self._shares.schemas(tx, caller.account, database)
        return [
            Place(name=each.schema, database=each.database, owner="", comment="", created_on=since, is_default=False)
            for each, since in sorted(found.items(), key=lambda item: item[0].dotted)
            if rights.sees(each.in_database) and (after is None or each.dotted > after.dotted)
        ]

    def _told(self, row: dict[str, Any], owner: str, origins: Mapping[str, str] | None = None) -> Place:
        place = place_of(row)
        is_database = place.kind is ObjectKind.DATABASE
        return Place(
            name=place.database if is_database else place.schema,
            database="" if is_database else place.database,
            owner=owner,
            comment=row["comment"],
            created_on=row["created_on"],
            is_default=place in (self._home, self._home.in_database),
            origin=(origins or {}).get(place.database) if is_database else None,
        )
