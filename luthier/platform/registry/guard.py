"""What stands between a verb and its rows: reads what the caller holds, in the verb's own transaction, asks
`privileges.missing`, and writes into the audit what was changed. Whoever may do something has cost two short queries by
then, ACCOUNTADMIN none.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import sqlalchemy as sa

from luthier.errors import LuthierError, NotAllowed
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.audit import Entry, asked
from luthier.platform.names import QualifiedName
from luthier.platform.privileges import Action, Maker, Rights, makers, missing
from luthier.platform.registry.audit_rows import AuditRows
from luthier.platform.securables import (
    ACCOUNT,
    IN_SCHEMA,
    MADE,
    PLACES,
    PUBLIC,
    RECORDED,
    ObjectKind,
    Privilege,
    Securable,
)
from luthier.platform.store import Row, Store

WIDE = (ObjectKind.ACCOUNT, ObjectKind.DATABASE_ROLE)
"""Few, and asked of everybody."""
MAX_NAMES = 1_000
"""Of so many objects at the most the grants are found by their names."""
MAX_PARTS = 100
"""Of one statement."""


class Made(Protocol):
    """A job, a batch, a file."""

    @property
    def kind(self) -> ObjectKind: ...
    @property
    def account(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def id(self) -> str: ...


class Guard:
    def __init__(self, store: Store, operator: str | None = None) -> None:
        """`operator` is the account that runs the platform."""
        self._store, self._operator, self._audit = store, operator, AuditRows(store)
        self._roles, self._users, self._role_grants, self._grants = map(
            store.table, ("roles", "users", "role_grants", "grants")
        )

    @contextmanager
    def change(self, caller: Caller, made: tuple[str, str] | None = None) -> Iterator[sa.Connection]:
        """A write transaction of somebody's. What he asked for is in the audit with what it changed, or neither is.

        `made` is the kind and name of a new object, which who asked did not know.
        """
        with self._store.transaction() as tx:
            yield tx
            entry = asked.get()()
            if entry is not None and (entry.account, entry.user) == (caller.account, caller.user):
                told = {"object_kind": made[0], "object_name": made[1]} if made else {}
                self.tell(tx, entry.model_copy(update=told))

    def tell(self, tx: sa.Connection, entry: Entry) -> None:
        """The audit, of a change that no request of the caller's own asks for."""
        self._audit.add(tx, [entry])

    def check(
        self,
        tx: sa.Connection,
        caller: Caller,
        action: Action,
        about: Securable = ACCOUNT,
        hidden: Callable[[], LuthierError] | None = None,
    ) -> Rights:
        """What the caller holds there. NotAllowed says what is missing; `hidden` is what a caller is told who may not
        see the object.
        """
        rights = self.rights(tx, caller, about)
        lacks = missing(action, rights, about)
        if lacks is None:
            return rights
        if lacks.is_hidden and hidden is not None:
            raise hidden()
        raise NotAllowed(lacks.sentence(caller.role, action))

    def may(self, tx: sa.Connection, caller: Caller, action: Action, about: Securable = ACCOUNT) -> bool:
        return missing(action, self.rights(tx, caller, about), about) is None

    def allowed(
        self, tx: sa.Connection, caller: Caller, action: Action, kind: ObjectKind, rows: Iterable[Row]
    ) -> list[Row]:
        """Those rows of tables that the caller may do this to."""
        rows = list(rows)
        rights = self.rights_on(tx, caller, kind, rows)
        return [row for row in rows if missing(action, rights, securable(kind, row)) is None]

    def rights_on(self, tx: sa.Connection, caller: Caller, kind: ObjectKind, rows: list[Row]) -> Rights:
        """What the caller holds on tables or models, and on what they lie in."""
        columns = self._grants.c
        on_them = columns.kind == kind.value
        if len(rows) <= MAX_NAMES:
            names = (columns[part].in_({row[part] for row in rows}) for part in ("database", "schema", "name"))
            on_them = sa.and_(on_them, *names)
        return self._rights(tx, caller, [columns.kind.in_([*WIDE, *PLACES]), on_them])

    def check_made(
        self, tx: sa.Connection, caller: Caller, action: Action, about: Made, hidden: Callable[[], LuthierError]
    ) -> None:
        """The same for a job, a batch, a file: of another account's nothing is told."""
        if about.account != caller.account:
            raise hidden()
        self.check(
            tx, caller, action, Securable(about.kind, name=about.id, owner=about.role, maker=about.owner), hidden
        )

    def made(
        self, tx: sa.Connection, caller: Caller, action: Action, kind: ObjectKind, table: sa.Table
    ) -> sa.ColumnElement[bool]:
        """Those rows of jobs, batches, files, usage that the caller may do this to."""
        in_account, his = table.c.account == caller.account, self._makers(tx, caller, action, kind)
        return in_account if his is None else sa.and_(in_account, self._is_by(his, kind, table))

    def made_by_role(
        self, tx: sa.Connection, caller: Caller, action: Action, kind: ObjectKind, table: sa.Table
    ) -> list[sa.ColumnElement[bool]]:
        """`made` in parts with no row in common: an index by account and role has the order of each, not of all."""
        in_account, his = table.c.account == caller.account, self._makers(tx, caller, action, kind)
        if his is None:
            return [in_account]
        parts = [his] if len(his) > MAX_PARTS else [[maker] for maker in his]
        return [sa.and_(in_account, self._is_by(part, kind, table)) for part in parts]

    def makers_since(
        self, tx: sa.Connection, caller: Caller, action: Action, kind: ObjectKind
    ) -> list[tuple[Maker, int]] | None:
        """By whom a row must be made for `made` to have it, and since when: the role or user is of today. None: by
        whomever."""
        his = self._makers(tx, caller, action, kind)
        if his is None:
            return None
        began = {}
        for table, names in ((self._roles, {each.role for each in his}), (self._users, {each.user for each in his})):
            columns = table.c
            query = sa.select(columns.name, columns.created_on).where(columns.account == caller.account)
            for name, created_on in tx.execute(query.where(columns.name.in_(sorted(names)))):
                began[table, name] = created_on
        found = ((maker, (self._users, maker.user) if maker.user else (self._roles, maker.role)) for maker in his)
        return [(maker, began[owner]) for maker, owner in found if owner in began]

    def _makers(self, tx: sa.Connection, caller: Caller, action: Action, kind: ObjectKind) -> list[Maker] | None:
        his = makers(action, self.rights(tx, caller, Securable(kind)), kind)
        return None if his is None else sorted(his)

    def _is_by(self, his: list[Maker], kind: ObjectKind, table: sa.Table) -> sa.ColumnElement[bool]:
        role, user = table.c.role, table.c["owner" if "owner" in table.c else "user"]
        roles = [maker.role for maker in his if not maker.user]
        ways = [sa.and_(role.in_(roles), *self._is_of_today(kind, table, self._roles, role))] if roles else []
        for maker in his:
            if maker.user:
                is_his = (user == maker.user, role == maker.role if maker.role else sa.true())
                ways.append(sa.and_(*is_his, *self._is_of_today(kind, table, self._users, user)))
        return sa.or_(sa.false(), *ways)

    def _is_of_today(
        self, kind: ObjectKind, table: sa.Table, owners: sa.Table, name: sa.ColumnElement[str]
    ) -> list[sa.ColumnElement[bool]]:
        """Its role or user is the one of today, not one of the same name that was dropped."""
        if kind not in RECORDED:
            return []
        began = sa.select(owners.c.created_on).where(owners.c.account == table.c.account, owners.c.name == name)
        return [table.c.time >= began.scalar_subquery()]

    def roles(self, tx: sa.Connection, caller: Caller) -> frozenset[str]:
        """The caller's, and all that are granted to them."""
        if caller.role == ADMIN_ROLE:
            return frozenset((ADMIN_ROLE, PUBLIC))
        return self.reachable(tx, caller.account, caller.role)

    def reachable(
        self, tx: sa.Connection, account: str, *first: str, also: tuple[str, ...] = (PUBLIC,)
    ) -> frozenset[str]:
        """These roles, if they are there, and all that are granted to them."""
        asked_for = {"its_account": account, "first": [*also, *first]}
        return frozenset(tx.execute(self._reachable, asked_for).scalars())

    @cached_property
    def _reachable(self) -> sa.Select[Any]:
        """To build it takes longer than to ask it."""
        roles, granted = self._roles.c, self._role_grants
        account: sa.BindParameter[str] = sa.bindparam("its_account")
        first: sa.BindParameter[list[str]] = sa.bindparam("first", expanding=True)
        held = sa.select(roles.name).where(roles.account == account, roles.name.in_(first)).cte("held", recursive=True)
        joined = sa.join(granted, held, granted.c.grantee == held.c.name)
        to_role = (granted.c.account == account, granted.c.granted_to == ObjectKind.ROLE.value)
        return sa.select(held.union(sa.select(granted.c.role).select_from(joined).where(*to_role)).c.name)

    def rights(self, tx: sa.Connection, caller: Caller, about: Securable) -> Rights:
        """What the caller holds on an object and on what it lies in."""
        columns = self._grants.c
        wanted: list[sa.ColumnElement[bool]] = [columns.kind.in_(WIDE)]
        places = [about] if about.kind not in IN_SCHEMA else [about, about.in_schema, about.in_database]
        if about.kind is ObjectKind.SCHEMA:
            places.append(about.in_database)
        wanted += [is_on(self._grants, place) for place in places if place.kind not in (*WIDE, *MADE)]
        return self._rights(tx, caller, wanted)

    def model_rights(self, tx: sa.Connection, caller: Caller, listed: frozenset[str] | None) -> Rights:
        """What the caller holds on base models, of which the account lists these (None: all)."""
        kinds = (ObjectKind.BASE_MODEL, *WIDE)
        rights = self._rights(tx, caller, [self._grants.c.kind.in_(kinds)], always=True)
        return replace(rights, models=listed)

    def rights_on_places(self, tx: sa.Connection, caller: Caller) -> Rights:
        """What the caller holds on databases and schemas."""
        return self._rights(tx, caller, [self._grants.c.kind.in_(PLACES)])

    def _rights(
        self, tx: sa.Connection, caller: Caller, wanted: Sequence[sa.ColumnElement[bool]], always: bool = False
    ) -> Rights:
        """Each of what is wanted is looked up by itself: with OR a store reads all that a role holds."""
        roles, columns = self.roles(tx, caller), self._grants.c
        is_operator = caller.account == self._operator
        if ADMIN_ROLE in roles and not always:
            return Rights(roles, is_operator=is_operator, user=caller.user)
        query = sa.select(columns.kind, columns.database, columns.schema, columns.name, columns.privilege).where(
            columns.account == caller.account, columns.grantee.in_(sorted(roles)), ~columns.is_future
        )
        held: dict[Securable, frozenset[Privilege]] = {}
        for kind, database, schema, name, privilege in tx.execute(sa.union_all(*map(query.where, wanted))):
            on = Securable(ObjectKind(kind), database, schema, name)
            held[on] = held.get(on, frozenset()) | {Privilege(privilege)}
        return Rights(roles, held, is_operator=is_operator, user=caller.user)


def securable(kind: ObjectKind, row: Row) -> Securable:
    """Of a row of tables or models."""
    if imported := row.get("imported_as"):
        return Securable(kind, imported.database, imported.schema, imported.name, is_imported=True)
    return Securable(kind, row["database"], row["schema"], row["name"], owner=row["role"])


def in_schema(name: QualifiedName) -> Securable:
    """Where a table or model of that name is, or will be."""
    return Securable(ObjectKind.SCHEMA, name.database, name.schema)


def is_on(grants: sa.Table, on: Securable) -> sa.ColumnElement[bool]:
    columns = grants.c
    return sa.and_(
        columns.kind == on.kind.value,
        columns.database == on.database,
        columns.schema == on.schema,
        columns.name == on.name,
    )
