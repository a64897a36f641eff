"""What the verbs on keys ask of users and their roles."""

import uuid

import sqlalchemy as sa

from luthier.errors import InvalidInput, NotAuthenticated, NotFound
from luthier.platform.audit import MAX_TEXT, Entry
from luthier.platform.metering import check_name
from luthier.platform.registry.access import Access
from luthier.platform.registry.guard import Guard
from luthier.platform.securables import PUBLIC
from luthier.platform.store import Store, exists


class Identities:
    def __init__(self, store: Store, guard: Guard, access: Access) -> None:
        self._store, self._guard = store, guard
        self._users, self._dropped = store.table("users"), store.table("dropped_users")
        self.roles_of, self._granted_to = access.roles_of, access.granted_to

    def create(self, tx: sa.Connection, account: str, user: str, issuer: str, now: int) -> None:
        """A user whom an identity provider knows, unless he is there."""
        if self._store.insert_missing(tx, "users", [{"account": account, "name": user, "created_on": now}]):
            who = {"account": account, "user": user, "role": PUBLIC, "source": issuer[:MAX_TEXT]}
            what = {"action": "create_user", "object_kind": "user", "object_name": user[:MAX_TEXT]}
            entry = Entry(id=f"user_{uuid.uuid4().hex}", time=now, **who, **what, is_allowed=True, status=200)
            self._guard.tell(tx, entry)

    def has_user(self, tx: sa.Connection, account: str, user: str) -> bool:
        columns = self._users.c
        return exists(tx, columns.account == account, columns.name == user)

    def check_may_come(self, tx: sa.Connection, account: str, user: str) -> None:
        """A new user would begin without the budget and the limits of the one who was dropped."""
        try:
            check_name(user)
        except InvalidInput as error:
            raise NotAuthenticated(error.message) from error
        columns = self._dropped.c
        if exists(tx, columns.account == account, columns.name == user):
            raise NotAuthenticated(f"User {user} was dropped here. Have him created again, or use another token.")

    def check_user(self, tx: sa.Connection, account: str, user: str) -> None:
        if not self.has_user(tx, account, user):
            raise NotFound(f"No user {user!r} in this account.")

    def roles_within(self, tx: sa.Connection, account: str, role: str) -> frozenset[str]:
        """The role and all whose privileges it has."""
        return self._guard.reachable(tx, account, role)

    def default_role(self, tx: sa.Connection, account: str, user: str) -> str:
        """The one chosen for him, if he still has it; else the first that was granted to himself, or PUBLIC."""
        columns = self._users.c
        query = sa.select(columns.default_role).where(columns.account == account, columns.name == user)
        chosen: str | None = tx.execute(query).scalar()
        if chosen is not None and chosen in self.roles_of(tx, account, user):
            return chosen
        return min(self._granted_to(tx, account, user), default=PUBLIC)
