"""Verbs on accounts and their parameters."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, InvalidInput, LuthierError, NotAllowed
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.base_models import Catalog
from luthier.platform.frozen import Frozen
from luthier.platform.keys import new_key_id
from luthier.platform.privileges import Action, Rights, missing
from luthier.platform.registry.again import each
from luthier.platform.registry.grant_rows import GrantRows
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.paging import MAX_SHOWN, named_page
from luthier.platform.registry.place_rows import PlaceRows
from luthier.platform.securables import (
    FIRST_GRANTS,
    HOME,
    PLATFORM,
    PUBLIC,
    SYSTEM_ROLES,
    ObjectKind,
    Securable,
)
from luthier.platform.store import Store, exists, fetch

ALLOWLIST = "CORTEX_MODELS_ALLOWLIST"
PARAMETERS = {ALLOWLIST: "All"}
"""With their defaults."""


class Account(Frozen):
    name: str
    created_on: int


class AccountKey(Frozen):
    """What is kept of an API key."""

    hash: str
    prefix: str


class Accounts:
    def __init__(
        self, store: Store, guard: Guard, catalog: Catalog, clock: Callable[[], int], home: Securable = HOME
    ) -> None:
        self._store, self._guard, self._catalog, self._clock = store, guard, catalog, clock
        self._home = home
        self._accounts, self._parameters, self._keys = map(store.table, ("accounts", "parameters", "keys"))

    def create(self, caller: Caller, name: str, key: AccountKey) -> Account:
        """A new account, whose admin has the key. The same again changes nothing."""
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.OPERATE, PLATFORM)
            same = (self._keys.c.account == name, self._keys.c.hash == key.hash)
            is_made = exists(tx, *same)
            if not is_made and not open_account(self._store, tx, name, self._home, self._clock()):
                raise Conflict(f"Account {name} is there already. Choose another name.")
            if not is_made:
                admin = Caller(account=name, user=ADMIN_USER, role=ADMIN_ROLE)
                self._store.insert_missing(tx, "keys", [key_row(admin, key, self._clock())])
            (row,) = fetch(tx, sa.select(self._accounts).where(self._accounts.c.name == name))
        return Account(**row)

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None) -> list[Account]:
        """All of them for who runs the platform, else the caller's own. By their names."""
        with self._store.reading() as tx:
            query = sa.select(self._accounts)
            if not self._guard.may(tx, caller, Action.OPERATE, PLATFORM):
                query = query.where(self._accounts.c.name == caller.account)
            page = named_page(query, self._accounts.c.name, limit, after)
            return [Account(**row) for row in fetch(tx, page)]

    def check_operator(self, caller: Caller) -> None:
        """NotAllowed unless the caller may do what concerns all accounts."""
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.OPERATE, PLATFORM)

    def is_operator(self, caller: Caller) -> bool:
        with self._store.reading() as tx:
            return self._guard.may(tx, caller, Action.OPERATE, PLATFORM)

    def parameters(self, caller: Caller) -> dict[str, str]:
        with self._store.reading() as tx:
            return {**PARAMETERS, **self._set(tx, caller.account)}

    def set_parameter(self, caller: Caller, name: str, value: str | None) -> dict[str, str]:
        """None: its default again."""
        key = name.upper()
        if key not in PARAMETERS:
            raise InvalidInput(f"There is no parameter {name}: there is {', '.join(PARAMETERS)}.")
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            is_it = (self._parameters.c.account == caller.account, self._parameters.c.name == key)
            tx.execute(sa.delete(self._parameters).where(*is_it))
            if value is not None:
                row = {"account": caller.account, "name": key, "value": self._checked(value)}
                tx.execute(sa.insert(self._parameters).values(**row))
            return {**PARAMETERS, **self._set(tx, caller.account)}

    def check_asks(self, caller: Caller, base_model: str) -> None:
        """NotAllowed unless the caller may ask a base model, named as in the catalog."""
        lacks = missing(Action.COMPLETE_BASE, self._model_rights(caller), _base(base_model))
        if lacks:
            raise NotAllowed(lacks.sentence(caller.role, Action.COMPLETE_BASE))

    def check_asks_all(self, asked: Sequence[tuple[Caller, str]]) -> list[LuthierError | None]:
        return each(self.check_asks, asked)

    def may_ask(self, caller: Caller, base_models: Iterable[str]) -> list[str]:
        """Those of them that he may."""
        rights = self._model_rights(caller)
        return [name for name in base_models if missing(Action.COMPLETE_BASE, rights, _base(name)) is None]

    def _model_rights(self, caller: Caller) -> Rights:
        with self._store.reading() as tx:
            listed = _listed({**PARAMETERS, **self._set(tx, caller.account)}[ALLOWLIST])
            return self._guard.model_rights(tx, caller, listed)

    def _set(self, tx: sa.Connection, account: str) -> dict[str, str]:
        columns = self._parameters.c
        rows = tx.execute(sa.select(columns.name, columns.value).where(columns.account == account))
        return {row.name: row.value for row in rows}

    def _checked(self, value: str) -> str:
        """All, None, or names of base models as the catalog has them."""
        names = [name.strip() for name in value.split(",") if name.strip()]
        if [name.upper() for name in names] in (["ALL"], ["NONE"]):
            return names[0].capitalize()
        if not names:
            raise InvalidInput(f"{ALLOWLIST} is 'All', 'None' or names of base models with commas between them.")
        return ",".join(self._catalog.get(name).name for name in names)


def open_account(store: Store, tx: sa.Connection, name: str, home: Securable, now: int) -> bool:
    """Makes an account with its admin, roles, first schema and what PUBLIC may do; False if it is there already.

    Conflict when another has the name in other letters: a share is opened to a name in any.
    """
    names = store.table("accounts").c.name
    if exists(tx, sa.func.upper(names) == name.upper(), names != name):
        raise Conflict(f"Account {name} is there already, in other letters. Choose another name.")
    if not store.insert_missing(tx, "accounts", [{"name": name, "created_on": now}]):
        return False
    made = {"account": name, "created_on": now}
    store.insert_missing(tx, "users", [{**made, "name": ADMIN_USER, "default_role": ADMIN_ROLE}])
    store.insert_missing(tx, "roles", [{**made, "name": role} for role in SYSTEM_ROLES])
    to_admin = {"role": ADMIN_ROLE, "granted_to": ObjectKind.USER.value, "grantee": ADMIN_USER}
    store.insert_missing(tx, "role_grants", [{**made, **to_admin, "granted_by": ADMIN_ROLE}])
    founder = Caller(account=name, user=ADMIN_USER, role=ADMIN_ROLE)
    PlaceRows(store).add_home(tx, name, home, now)
    GrantRows(store).add(tx, founder, FIRST_GRANTS, PUBLIC, now)
    return True


def key_row(owner: Caller, key: AccountKey, now: int) -> dict[str, Any]:
    """The first key of an account's admin: without end, for everything."""
    named = {"id": new_key_id(), "name": "first", "scope": {}, "created_by": owner.user}
    return {**key.model_dump(), **named, "created_on": now, **owner.identity}


def _base(name: str) -> Securable:
    return Securable(ObjectKind.BASE_MODEL, name=name)


def _listed(value: str) -> frozenset[str] | None:
    return None if value == "All" else frozenset() if value == "None" else frozenset(value.split(","))
