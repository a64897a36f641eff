"""Verbs on shares: what of an account others may ask, and the databases that those make of it.

Who may see a share, or change it, is decided where all else is; what it gives, by the privileges that it holds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, NotFound
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.names import quote_if_needed
from luthier.platform.privileges import Action
from luthier.platform.registry.grants import Grant, Grants, no_share, shared
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.paging import MAX_SHOWN, joined_page
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.registry.share_rows import ShareRows, folded, place_in
from luthier.platform.securables import Granted, ObjectKind, Privilege, Scope, Securable, is_taken
from luthier.platform.store import Row, Store, fetch, fetch_first

SHARED = (ObjectKind.DATABASE, ObjectKind.SCHEMA, ObjectKind.MODEL)
PLACEHOLDER = "<DB>"
"""Stands for the database that a consumer will make."""


class Share(Frozen):
    """A row of SHOW SHARES."""

    created_on: int
    kind: str
    """OUTBOUND: one's own; INBOUND: another account's, that is open to one's own."""
    owner_account: str
    name: str
    database_name: str
    """What it gives, or what was made of it; empty where nothing was yet."""
    to: list[str]
    owner: str
    comment: str


class Shared(Frozen):
    """A row of DESC SHARE."""

    kind: str
    name: str
    shared_on: int


class ShareAccount(Frozen):
    """A row of SHOW GRANTS OF SHARE."""

    created_on: int
    share: str
    granted_to: str = ObjectKind.ACCOUNT.value
    grantee_name: str
    granted_by: str


class Shares:
    def __init__(self, store: Store, guard: Guard, grants: Grants, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._grants, self._clock = store, guard, grants, clock
        self._rows, self._places = ShareRows(store), PlaceRows(store)

    # the provider's

    def create(self, caller: Caller, name: str, comment: str = "") -> bool:
        """False when the caller's role had made it before. It gives nothing yet, to nobody."""
        made = {"account": caller.account, "name": name, "owner": caller.role, "comment": comment}
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.CREATE_SHARE)
            if self._store.insert_missing(tx, "shares", [{**made, "created_on": self._clock()}]):
                return True
            if self._find(tx, caller, name)["owner"] != caller.role:
                raise Conflict(f"Share {name} is there already. Choose another name.")
        return False

    def drop(self, caller: Caller, name: str) -> None:
        """Whoever used it finds nothing there any more; a new one of that name is another."""
        with self._guard.change(caller) as tx:
            share = self._managed(tx, caller, name)
            tx.execute(sa.delete(self._rows.shares).where(self._rows.shares.c.id == share["id"]))

    def add_accounts(self, caller: Caller, name: str, accounts: Sequence[str]) -> list[str]:
        """All that it is open to then."""
        with self._guard.change(caller) as tx:
            share = self._managed(tx, caller, name)
            self._open_to(tx, caller, share, accounts)
            return self._opened(tx, share)

    def remove_accounts(self, caller: Caller, name: str, accounts: Sequence[str]) -> list[str]:
        with self._guard.change(caller) as tx:
            share = self._managed(tx, caller, name)
            named = list(map(folded, accounts))
            opened = self._rows.accounts
            its = (opened.c.share_id == share["id"], opened.c.account.in_(named))
            tx.execute(sa.delete(opened).where(*its))
            return self._opened(tx, share)

    def set_accounts(self, caller: Caller, name: str, accounts: Sequence[str]) -> list[str]:
        """These, and no others."""
        with self._guard.change(caller) as tx:
            share = self._managed(tx, caller, name)
            tx.execute(sa.delete(self._rows.accounts).where(self._rows.accounts.c.share_id == share["id"]))
            self._open_to(tx, caller, share, accounts)
            return self._opened(tx, share)

    def grant(self, caller: Caller, granted: Granted, name: str) -> int:
        """USAGE on the share's one database, on schemas and models in it; on how many objects it is now."""
        _check_shareable(granted)
        with self._guard.change(caller) as tx:
            share = self._managed(tx, caller, name)
            objects, num = self._grants.grantable(tx, caller, granted)
            self._check_place(tx, caller, share, granted.on)
            self._rows.add(tx, caller, share["id"], objects, self._clock())
        return num

    def revoke(self, caller: Caller, granted: Granted, name: str) -> int:
        """Of a database with all that is in it."""
        _check_shareable(granted)
        with self._guard.change(caller) as tx:
            share = self._managed(tx, caller, name)
            objects, num = self._grants.grantable(tx, caller, granted)
            self._rows.remove(tx, share["id"], granted.on, objects)
        return num

    def grants(self, caller: Caller, name: str, limit: int = MAX_SHOWN, skip: int = 0) -> list[Grant]:
        """SHOW GRANTS TO SHARE."""
        with self._store.reading() as tx:
            share = self._managed(tx, caller, name)
            return joined_page(tx, [(self._gives(share), shared)], limit, skip)

    def accounts(self, caller: Caller, name: str, limit: int = MAX_SHOWN, skip: int = 0) -> list[ShareAccount]:
        """SHOW GRANTS OF SHARE."""
        columns = self._rows.accounts.c

        def told(row: Row) -> ShareAccount:
            kept = {key: row[key] for key in ("created_on", "granted_by")}
            return ShareAccount(**kept, share=name, grantee_name=row["account"])

        with self._store.reading() as tx:
            share = self._managed(tx, caller, name)
            query = sa.select(self._rows.accounts).where(columns.share_id == share["id"]).order_by(columns.account)
            return joined_page(tx, [(query, told)], limit, skip)

    # everybody's

    def show(self, caller: Caller, limit: int = MAX_SHOWN, skip: int = 0) -> list[Share]:
        """Those that the caller may see of his account's, and, for who may use them, those that are open to it."""
        columns = self._rows.shares.c
        query = sa.select(self._rows.shares).where(columns.account == caller.account).order_by(columns.name)
        with self._store.reading() as tx:
            seen = [row for row in fetch(tx, query) if self._sees(tx, caller, row)]
            if self._guard.may(tx, caller, Action.IMPORT_SHARE):
                seen += self._open_shares(tx, caller)
            page = seen[skip : skip + min(limit, MAX_SHOWN)]
            return [
                self._outbound(tx, row) if row["account"] == caller.account else self._inbound(tx, caller, row)
                for row in page
            ]

    def describe(
        self, caller: Caller, name: str, provider: str | None = None, limit: int = MAX_SHOWN, skip: int = 0
    ) -> list[Shared]:
        """What it gives; of another account's, with a placeholder for the database that will be made of it."""
        with self._store.reading() as tx:
            if provider is None:
                share = self._managed(tx, caller, name)
            else:
                self._guard.check(tx, caller, Action.IMPORT_SHARE)
                share = self._open_share(tx, caller, name, provider)
            told = partial(_to_shared, database=None if provider is None else PLACEHOLDER)
            return joined_page(tx, [(self._gives(share), told)], limit, skip)

    # the consumer's

    def import_database(self, caller: Caller, database: str, provider: str, name: str) -> bool:
        """CREATE DATABASE ... FROM SHARE; False when the caller's account had made the same before."""
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.IMPORT_SHARE)
            share = self._open_share(tx, caller, name, provider)
            made = self._made(tx, caller)
            if made.get(database) == share["id"]:
                return False
            if other := next((each for each, share_id in made.items() if share_id == share["id"]), None):
                raise Conflict(f"Database {quote_if_needed(other)} was made of that share: use it, or drop it first.")
            on = Securable(ObjectKind.DATABASE, database)
            if is_taken(database) or not self._places.add(tx, caller, on, self._clock()):
                raise Conflict(f"Database {quote_if_needed(database)} is there already. Choose another name.")
            row = {"account": caller.account, "name": database, "share_id": share["id"], "created_on": self._clock()}
            tx.execute(sa.insert(self._rows.databases).values(**row))
        return True

    def drop_database(self, caller: Caller, database: str) -> None:
        """What another account shares stays there; nobody of this one reaches it by that name any more."""
        none = NotFound(f"No database {quote_if_needed(database)} that was made of a share. SHOW SHARES lists them.")
        with self._guard.change(caller) as tx:
            if database not in self._made(tx, caller):
                raise none
            on = Securable(ObjectKind.DATABASE, database)
            self._guard.check(tx, caller, Action.MANAGE, on, lambda: none)
            self._places.end(tx, caller.account, on)

    # rows

    def _gives(self, share: Row) -> sa.Select[Any]:
        return self._rows.given(self._rows.grants.c.share_id == share["id"])

    def _find(self, tx: sa.Connection, caller: Caller, name: str) -> Row:
        columns = self._rows.shares.c
        its = (columns.account == caller.account, columns.name == name)
        row = fetch_first(tx, sa.select(self._rows.shares).where(*its))
        if row is None:
            raise no_share(name)
        return dict(row)

    def _managed(self, tx: sa.Connection, caller: Caller, name: str) -> Row:
        share = self._find(tx, caller, name)
        self._guard.check(tx, caller, Action.MANAGE, _about(share), lambda: no_share(name))
        return share

    def _sees(self, tx: sa.Connection, caller: Caller, share: Row) -> bool:
        return self._guard.rights(tx, caller, _about(share)).sees(_about(share))

    def _open_shares(self, tx: sa.Connection, caller: Caller) -> list[Row]:
        """Of other accounts."""
        shares, opened = self._rows.shares, self._rows.accounts
        joined = sa.join(shares, opened, opened.c.share_id == shares.c.id)
        query = sa.select(shares).select_from(joined).where(opened.c.account == folded(caller.account))
        return fetch(tx, query.order_by(shares.c.account, shares.c.name))

    def _open_share(self, tx: sa.Connection, caller: Caller, name: str, provider: str) -> Row:
        """What is not open to the caller's account is answered like what is not there."""
        found = [row for row in self._open_shares(tx, caller) if row["name"] == name]
        exact = [row for row in found if row["account"] == provider]
        near = exact or [row for row in found if row["account"].upper() == provider.upper()]
        if len(near) != 1:
            raise NotFound(f"No share {name} of account {provider} is open to this one. SHOW SHARES lists them.")
        return near[0]

    def _open_to(self, tx: sa.Connection, caller: Caller, share: Row, accounts: Sequence[str]) -> None:
        """Nobody is told which of them are there."""
        named = list(dict.fromkeys(map(folded, accounts)))
        if folded(caller.account) in named:
            raise InvalidInput(f"Account {caller.account} is your own: a share is for others.")
        made = {"share_id": share["id"], "granted_by": caller.role, "created_on": self._clock()}
        self._store.insert_missing(tx, "share_accounts", [{**made, "account": each} for each in named])

    def _opened(self, tx: sa.Connection, share: Row) -> list[str]:
        columns = self._rows.accounts.c
        query = sa.select(columns.account).where(columns.share_id == share["id"]).order_by(columns.account)
        return list(tx.execute(query).scalars())

    def _outbound(self, tx: sa.Connection, row: Row) -> Share:
        return _to_share(row, "OUTBOUND", self._given(tx, row) or "", to=self._opened(tx, row), owner=row["owner"])

    def _inbound(self, tx: sa.Connection, caller: Caller, row: Row) -> Share:
        """To whom else it is open, and who owns it there, is the provider's."""
        made = next((each for each, share_id in self._made(tx, caller).items() if share_id == row["id"]), "")
        return _to_share(row, "INBOUND", made, to=[], owner="")

    def _given(self, tx: sa.Connection, share: Row) -> str | None:
        """The one database that it gives."""
        columns = self._rows.grants.c
        its = (columns.share_id == share["id"], columns.kind == ObjectKind.DATABASE.value)
        database: str | None = tx.execute(sa.select(columns.database).where(*its)).scalar()
        return database

    def _made(self, tx: sa.Connection, caller: Caller) -> dict[str, int]:
        """The caller's databases that were made of shares, also of those that are gone."""
        columns = self._rows.databases.c
        query = sa.select(columns.name, columns.share_id).where(columns.account == caller.account)
        return {row.name: row.share_id for row in tx.execute(query)}

    # checks

    def _check_place(self, tx: sa.Connection, caller: Caller, share: Row, on: Securable) -> None:
        self._rows.check_own(tx, caller.account, on.database)
        given, name = self._given(tx, share), share["name"]
        if on.kind is ObjectKind.DATABASE and given not in (None, on.database):
            raise Conflict(f"Share {name} gives database {given}: it gives one. Make another share for {on.dotted}.")
        if on.kind is not ObjectKind.DATABASE and given != on.database:
            cure = f"GRANT USAGE ON {on.in_database} TO SHARE {name}"
            raise Conflict(f"Share {name} does not give {on.in_database}, in which {on} is. `{cure}` comes first.")


def _about(share: Row) -> Securable:
    return Securable(ObjectKind.SHARE, name=share["name"], owner=share["owner"])


def _check_shareable(granted: Granted) -> None:
    if granted.on.kind not in SHARED or granted.privileges != (Privilege.USAGE,):
        said = ", ".join(granted.privileges)
        raise InvalidInput(
            f"{said} on a {granted.on.kind} is not shared: a share takes USAGE on a DATABASE, on a SCHEMA and on a "
            f"MODEL. Who uses it asks the model, and never looks inside."
        )
    if granted.scope is Scope.FUTURE:
        raise InvalidInput("FUTURE is not for shares: what is made later is shared when you say so.")


def _to_share(row: Row, kind: str, database: str, **own: Any) -> Share:
    kept = {key: row[key] for key in ("created_on", "name", "comment")}
    return Share(**kept, kind=kind, owner_account=row["account"], database_name=database, **own)


def _to_shared(row: Row, database: str | None) -> Shared:
    on = place_in(row)
    name = on.dotted
    if database is not None:
        rest = [quote_if_needed(part) for part in (on.schema, on.name) if part]
        name = ".".join([database, *rest])
    return Shared(kind=on.kind.value, name=name, shared_on=row["created_on"])
