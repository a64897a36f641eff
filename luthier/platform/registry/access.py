"""Verbs on keys: whom a key stands for, and as which role."""

import sqlalchemy as sa

from luthier.errors import InvalidInput, NotAllowed, NotAuthenticated
from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.jobs import now_ms
from luthier.platform.registry.accounts import open_account
from luthier.platform.registry.guard import Guard
from luthier.platform.securables import ObjectKind, role_key
from luthier.platform.store import Store


class Access:
    def __init__(self, store: Store, guard: Guard) -> None:
        self._store, self._guard = store, guard
        self._keys, self._role_grants = store.table("keys"), store.table("role_grants")

    def add_admin_key(self, account: str, key_hash: str, prefix: str) -> None:
        """Gives the account's admin a key; makes the account with its admin if it is not there yet."""
        admin = Caller(account=account, user=ADMIN_USER, role=ADMIN_ROLE)
        with self._store.transaction() as tx:
            open_account(self._store, tx, account, now_ms())
            self._add(tx, admin, key_hash, prefix)

    def add_key(self, owner: Caller, key_hash: str, prefix: str) -> None:
        """A key of a user's, for a role that he has."""
        with self._store.transaction() as tx:
            if owner.role not in self.roles_of(tx, owner.account, owner.user):
                raise InvalidInput(f"User {owner.user} does not have role {owner.role}: grant it to him first.")
            self._add(tx, owner, key_hash, prefix)

    def authenticate(self, key_hash: str, role: str | None = None) -> Caller:
        """The caller behind a key's hash, in the key's role, or in another that its user has."""
        columns = self._keys.c
        query = sa.select(columns.account, columns.user, columns.role)
        with self._store.reading() as tx:
            row = tx.execute(query.where(columns.hash == key_hash, columns.revoked_on.is_(None))).mappings().first()
            if row is None:
                raise NotAuthenticated(
                    "This API key is not known here, or was revoked. Check LUTHIER_API_KEY or the profile."
                )
            caller = Caller(**row)
            wanted = role_key(role) if role else caller.role
            if wanted not in self.roles_of(tx, caller.account, caller.user):
                raise NotAllowed(
                    f"User {caller.user} does not have a role {wanted}. `luthier grants list --to-user {caller.user}` "
                    f"shows his."
                )
        return caller.model_copy(update={"role": wanted})

    def roles_of(self, tx: sa.Connection, account: str, user: str) -> frozenset[str]:
        """All that a user may take: those granted to him, what is granted to these, and PUBLIC."""
        columns = self._role_grants.c
        is_his = (columns.account == account, columns.granted_to == ObjectKind.USER.value, columns.grantee == user)
        granted = tx.execute(sa.select(columns.role).where(*is_his)).scalars().all()
        return self._guard.reachable(tx, account, *granted)

    def _add(self, tx: sa.Connection, owner: Caller, key_hash: str, prefix: str) -> None:
        key = {"hash": key_hash, "prefix": prefix, "created_on": now_ms(), **owner.model_dump()}
        self._store.insert_missing(tx, "keys", [key])
