"""Rows of shares: what a share gives, and which models an account reaches by the databases that it made of some.

No verbs: those stand in shares.py.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from luthier.errors import Conflict
from luthier.platform.access import Caller
from luthier.platform.names import QualifiedName, quote_if_needed
from luthier.platform.privileges import Action, Rights, missing
from luthier.platform.registry.grant_rows import Objects, is_among, literals
from luthier.platform.registry.guard import securable
from luthier.platform.securables import ObjectKind, Privilege, Securable
from luthier.platform.store import Row, Store, exists, fetch


class Imported(NamedTuple):
    """A database that was made of a share which is open to its account."""

    database: str
    share_id: int
    share: str
    provider: str
    created_on: int
    """Of the database."""


def folded(account: str) -> str:
    """How it is written down to whom a share is open: the same whether there is such an account or not."""
    return account.upper()


class ShareRows:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.shares, self.accounts, self.grants = map(store.table, ("shares", "share_accounts", "share_grants"))
        self.databases, self._models = store.table("imported_databases"), store.table("models")

    # what a share gives

    def rights(self, tx: sa.Connection, share_ids: Iterable[int]) -> dict[int, Rights]:
        """A share holds privileges as a role does."""
        columns = self.grants.c
        held: dict[int, dict[Securable, frozenset[Privilege]]] = {share: {} for share in share_ids}
        query = sa.select(self.grants).where(columns.share_id.in_(list(held))).order_by(columns.id)
        for row in fetch(tx, query):
            own, on = held[row["share_id"]], place_in(row)
            own[on] = own.get(on, frozenset()) | {Privilege(row["privilege"])}
        return {share: Rights(frozenset(), own) for share, own in held.items()}

    def add(self, tx: sa.Connection, by: Caller, share_id: int, on: Objects, now: int) -> None:
        made = {"share_id": share_id, "account": by.account, "granted_by": by.role, "created_on": now}
        row = {**made, "privilege": Privilege.USAGE.value}
        self.store.copy_missing(tx, "share_grants", on.add_columns(*literals(self.grants, row)))

    def remove(self, tx: sa.Connection, share_id: int, about: Securable, on: Objects) -> None:
        """What lies in a database goes with it."""
        columns = self.grants.c
        is_all = about.kind is ObjectKind.DATABASE
        its = columns.database == about.database if is_all else is_among(self.grants, on)
        tx.execute(sa.delete(self.grants).where(columns.share_id == share_id, its))

    def given(self, *its: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """With the share's name."""
        joined = sa.join(self.grants, self.shares, self.shares.c.id == self.grants.c.share_id)
        name = self.shares.c.name.label("share_name")
        return sa.select(self.grants, name).select_from(joined).where(*its).order_by(self.grants.c.id)

    # what an account reaches

    def imported(self, tx: sa.Connection, account: str, database: str | None = None) -> list[Imported]:
        """All of them, or the one of that name; none of shares that are dropped, or open to the account no more."""
        made, share, opened = self.databases.c, self.shares.c, self.accounts.c
        joined = sa.join(self.databases, self.shares, share.id == made.share_id).join(
            self.accounts, sa.and_(opened.share_id == share.id, opened.account == folded(account))
        )
        query = sa.select(made.name, share.id, share.name, share.account, made.created_on).select_from(joined)
        query = query.where(made.account == account)
        if database is not None:
            query = query.where(made.name == database)
        return [Imported(*row) for row in tx.execute(query.order_by(made.name))]

    def find_model(self, tx: sa.Connection, account: str, name: QualifiedName) -> Row | None:
        """The provider's row of a model that the account calls so, with what it is called there."""
        columns = self._models.c
        is_it = (columns.schema == name.schema, columns.name == name.name)
        return next(iter(self._reached(tx, self.imported(tx, account, name.database), *is_it)), None)

    def models(self, tx: sa.Connection, account: str) -> list[Row]:
        """All that the account reaches, whoever of it may ask them."""
        return list(self._reached(tx, self.imported(tx, account)))

    def origins(self, tx: sa.Connection, account: str) -> dict[str, str]:
        """The share, ACCOUNT.SHARE, of each database that was made of one; empty where it is open no more."""
        made = self.databases.c
        names = tx.execute(sa.select(made.name).where(made.account == account)).scalars()
        opened = {each.database: f"{each.provider}.{each.share}" for each in self.imported(tx, account)}
        return dict.fromkeys(names, "") | opened

    def schemas(self, tx: sa.Connection, account: str, database: str | None = None) -> dict[Securable, int]:
        """In databases that were made of shares: those that the shares are on, by their names, and since when."""
        imported = self.imported(tx, account, database)
        rights = self.rights(tx, [each.share_id for each in imported])
        return {
            Securable(ObjectKind.SCHEMA, each.database, on.schema): each.created_on
            for each in imported
            for on in sorted(rights[each.share_id].held, key=lambda on: on.schema)
            if on.kind is ObjectKind.SCHEMA
        }

    def check_own(self, tx: sa.Connection, account: str, database: str) -> None:
        """Conflict where nothing can be made: the database is another account's."""
        if self.is_imported(tx, account, database):
            raise Conflict(
                f"Database {quote_if_needed(database)} was made of a share: what is in it is another account's. "
                f"Nothing can be made there, and IMPORTED PRIVILEGES ON DATABASE are all that can be granted."
            )

    def is_imported(self, tx: sa.Connection, account: str, database: str) -> bool:
        made = self.databases.c
        return exists(tx, made.account == account, made.name == database)

    def _reached(self, tx: sa.Connection, imported: list[Imported], *its: sa.ColumnElement[bool]) -> Iterable[Row]:
        if not imported:
            return
        models, rights = self._models, self.rights(tx, [each.share_id for each in imported])
        for each in imported:
            held = rights[each.share_id]
            names = {on.name for on in held.held if on.kind is ObjectKind.MODEL}
            query = sa.select(models).where(models.c.account == each.provider, models.c.name.in_(names), *its)
            for row in fetch(tx, query.order_by(models.c.display)):
                if missing(Action.SEE_MODEL, held, securable(ObjectKind.MODEL, row)) is None:
                    yield _as_imported(row, each.database)


def place_in(row: Row) -> Securable:
    """What a row of grants is on."""
    return Securable(ObjectKind(row["kind"]), row["database"], row["schema"], row["name"])


def _as_imported(row: Row, database: str) -> Row:
    """A provider's row of a model, as it is found in another account."""
    name = QualifiedName(database, row["schema"], row["name"])
    origin = f"{row['account']}.{QualifiedName(row['database'], row['schema'], row['name']).dotted}"
    return {**row, "display": name.dotted, "owner": row["account"], "imported_as": name, "origin": origin}
