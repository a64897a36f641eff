"""Verbs on accounts, users, roles and keys."""

import sqlalchemy as sa

from luthier.errors import NotAuthenticated
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.jobs import now_ms
from luthier.platform.store import Store


class Access:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.table("keys")

    def add_admin_key(self, account: str, key_hash: str, prefix: str) -> None:
        """Gives the account's admin a key; makes the account with its admin if it is not there yet."""
        now = now_ms()
        admin = Caller(account=account, user=ADMIN_USER, role=ADMIN_ROLE)
        key = {"hash": key_hash, "prefix": prefix, "created_on": now, **admin.model_dump()}
        with self._store.transaction() as tx:
            self._store.insert_missing(tx, "accounts", [{"name": account, "created_on": now}])
            for name, value in (("users", ADMIN_USER), ("roles", ADMIN_ROLE)):
                self._store.insert_missing(tx, name, [{"account": account, "name": value, "created_on": now}])
            self._store.insert_missing(tx, "keys", [key])

    def authenticate(self, key_hash: str) -> Caller:
        """The caller behind a key's hash."""
        columns = self._keys.c
        query = sa.select(columns.account, columns.user, columns.role)
        found = self._store.rows(query.where(columns.hash == key_hash, columns.revoked_on.is_(None)))
        if not found:
            raise NotAuthenticated(
                "This API key is not known here, or was revoked. Check LUTHIER_API_KEY or the profile."
            )
        return Caller(**found[0])
