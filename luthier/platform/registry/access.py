"""Who is there: the admin of an account, and the roles that a user may take."""

import sqlalchemy as sa

from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.audit import Entry
from luthier.platform.jobs import now_ms
from luthier.platform.registry.accounts import AccountKey, key_row, open_account
from luthier.platform.registry.guard import Guard
from luthier.platform.securables import HOME, ObjectKind, Securable
from luthier.platform.store import Store


class Access:
    def __init__(self, store: Store, guard: Guard, home: Securable = HOME) -> None:
        self._store, self._guard, self._home = store, guard, home
        self._role_grants = store.table("role_grants")

    def add_admin_key(self, account: str, key_hash: str, prefix: str) -> None:
        """Gives the account's admin a key; makes the account with its admin if it is not there yet."""
        admin = Caller(account=account, user=ADMIN_USER, role=ADMIN_ROLE)
        with self._store.transaction() as tx:
            open_account(self._store, tx, account, self._home, now_ms())
            row = key_row(admin, AccountKey(hash=key_hash, prefix=prefix), now_ms())
            if self._store.insert_missing(tx, "keys", [row]):
                what = {"action": "create_key", "object_kind": "key", "object_name": row["id"]}
                entry = Entry(
                    id=f"up_{row['id']}", time=now_ms(), **admin.identity, **what, is_allowed=True, status=200
                )
                self._guard.tell(tx, entry)

    def roles_of(self, tx: sa.Connection, account: str, user: str) -> frozenset[str]:
        """All that a user may take: those granted to him, what is granted to these, and PUBLIC."""
        return self._guard.reachable(tx, account, *self.granted_to(tx, account, user))

    def granted_to(self, tx: sa.Connection, account: str, user: str) -> frozenset[str]:
        """Those granted to the user himself."""
        columns = self._role_grants.c
        is_his = (columns.account == account, columns.granted_to == ObjectKind.USER.value, columns.grantee == user)
        return frozenset(tx.execute(sa.select(columns.role).where(*is_his)).scalars())
