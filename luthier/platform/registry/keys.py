"""Verbs on API keys: make, show, rotate, revoke, and whom one opens the door to. Secrets never come here."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, LuthierError, NotAllowed, NotAuthenticated, NotFound
from luthier.platform.access import ADMIN_ROLE, Caller
from luthier.platform.credits import BudgetKind, budget_scope
from luthier.platform.jobs import now_ms
from luthier.platform.keys import KeyInfo, NewKey, Scope, Session
from luthier.platform.metering import DAY_MS
from luthier.platform.privileges import Action
from luthier.platform.registry.access import Access
from luthier.platform.registry.again import each
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.identities import Identities
from luthier.platform.registry.paging import MAX_SHOWN, numbered_page
from luthier.platform.securables import ObjectKind, Securable, role_key
from luthier.platform.store import Row, Store, fetch, fetch_first

NUM_SOUGHT = 8
"""Letters of a hash by which its row is found."""
BEHIND_DIGITS = "g"
"""Of hexadecimal numbers."""


class Keys:
    def __init__(
        self,
        store: Store,
        guard: Guard,
        access: Access,
        clock: Callable[[], int] = now_ms,
        token_key_days: int | None = None,
    ) -> None:
        """`token_key_days`: how long a key lives at the most whose maker shows none; None: that is the platform."""
        self._store, self._guard, self._clock, self._token_key_days = store, guard, clock, token_key_days
        self._keys, self._limits, self._rates = map(store.table, ("keys", "limits", "rate_limits"))
        self._identities = Identities(store, guard, access)

    def authenticate(self, key_hash: str, role: str | None = None) -> Session:
        """What a key opens, by its hash, in its own role or in one within that; ACCOUNTADMIN's in any of its user's."""
        row = self._opened_by(key_hash)
        if row is None:
            raise NotAuthenticated("This API key is not known here. Check LUTHIER_API_KEY or the profile.")
        session = _session(row)
        if row["revoked_on"] is not None:
            raise _ended(session.caller, "was revoked", row["revoked_on"])
        if row["expires_on"] is not None and row["expires_on"] <= self._clock():
            raise _ended(session.caller, _expired(row), row["expires_on"])
        return session.model_copy(update={"caller": self._as(session.caller, role)})

    def authenticate_all(self, asked: Sequence[tuple[str, str | None]]) -> list[Session | LuthierError]:
        return each(self.authenticate, asked)

    def session_of(
        self, account: str, user: str, roles: Sequence[str], role: str | None = None, issuer: str | None = None
    ) -> Session:
        """What another proof of who he is opens: `role`, as written; else the first of `roles` that he has, else his
        default one. Without an `issuer` no user is made of it, and never one who was dropped.
        """
        with self._store.reading() as tx:
            is_known = self._identities.has_user(tx, account, user)
        if not is_known and issuer is None:
            raise NotAuthenticated(f"The token is good, but {user!r} is no user here. Have one created.")
        if not is_known and issuer is not None:
            with self._store.transaction() as tx:
                self._identities.check_may_come(tx, account, user)
                self._identities.create(tx, account, user, issuer, self._clock())
        with self._store.reading() as tx:
            held = self._identities.roles_of(tx, account, user)
            if role and role_key(role) not in held:
                raise NotAllowed(f"User {user} does not have the role {role_key(role)}.")
            first = [role_key(role)] if role else [each for each in roles if each in held]
            taken = first[0] if first else self._identities.default_role(tx, account, user)
            return Session(caller=Caller(account=account, user=user, role=taken))

    def sessions_of(self, asked: Sequence[tuple[str, str, Sequence[str], str | None]]) -> list[Session | LuthierError]:
        """Of users that are there."""
        return each(self.session_of, asked)

    def create(self, caller: Caller, new: NewKey) -> KeyInfo:
        """A key of the account's admin is for whom and what he says; of others for themselves, and no wider."""
        with self._guard.change(caller) as tx:
            if known := self._found(tx, self._keys.c.id == new.id):
                return self._same(caller, known, new)
            own = self._own(tx, caller)
            self._check_unlimited(tx, caller, caller.key)
            user = new.user or caller.user
            self._check_for_whom(tx, caller, user)
            self._identities.check_user(tx, caller.account, user)
            role = new.role or self._role_for(tx, caller, user)
            given = Session(
                caller=Caller(account=caller.account, user=user, role=role),
                scope=new.scope,
                expires_on=new.expires_on if new.expires_on is not None else own.expires_on,
            )
            self._check_may_give(tx, own, given)
            return self._insert(tx, caller, new, given)

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None) -> list[KeyInfo]:
        """The admin is shown all of the account, others their own; newest first, from behind a key's id."""
        columns = self._keys.c
        with self._store.reading() as tx:
            its = sa.select(self._keys).where(self._reach(tx, caller))
            page = numbered_page(tx, its, columns.created_on, columns.id, limit, after)
            return [KeyInfo.from_row(row) for row in fetch(tx, page)]

    def revoke(self, caller: Caller, key_id: str) -> KeyInfo:
        """From now on it opens nothing; doors that know it have heard within seconds.

        By a key: itself, and those that open no more than it does, in a role within its own. NotAllowed.
        """
        with self._guard.change(caller) as tx:
            row = self._get(tx, caller, key_id)
            if caller.key not in (None, key_id) and not self._covers(tx, caller, _session(row)):
                raise NotAllowed(f"Key {key_id} opens more than key {caller.key}, which may not revoke it.")
            if row["revoked_on"] is None:
                self._update(tx, key_id, revoked_on=self._clock())
            return KeyInfo.from_row(self._get(tx, caller, key_id))

    def rotate(self, caller: Caller, key_id: str, new: NewKey, grace_s: int) -> KeyInfo:
        """A new key in the place of an old one, which works on for the grace. Of `new`: id, secret, end."""
        with self._guard.change(caller) as tx:
            row, now = self._get(tx, caller, key_id), self._clock()
            if row["rotated_to"] == new.id:
                return KeyInfo.from_row(self._get(tx, caller, new.id))
            _check_may_rotate(row, now)
            self._check_unlimited(tx, caller, caller.key, key_id)
            old = _session(row)
            end = new.expires_on if new.expires_on is not None else old.expires_on
            given = old.model_copy(update={"expires_on": end})
            self._check_may_give(tx, self._own(tx, caller), given)
            made = self._insert(tx, caller, new.model_copy(update={"name": row["name"]}), given)
            ends_on = now + grace_s * 1000
            known_end = row["expires_on"]
            self._update(
                tx, key_id, rotated_to=new.id, expires_on=ends_on if known_end is None else min(known_end, ends_on)
            )
            return made

    def used(self, times: Mapping[str, int]) -> None:
        """When keys were last used, as a door has seen it."""
        columns = self._keys.c
        with self._store.transaction(quiet=("keys",)) as tx:
            for key_id, time in times.items():
                is_later = sa.or_(columns.last_used_on.is_(None), columns.last_used_on < time)
                tx.execute(sa.update(self._keys).where(columns.id == key_id, is_later).values(last_used_on=time))

    def _opened_by(self, key_hash: str) -> Row | None:
        """The store looks for the first letters alone: how long it takes tells nothing of the others."""
        column, start = self._keys.c.hash, key_hash[:NUM_SOUGHT]
        found = self._store.rows(sa.select(self._keys).where(column >= start, column < start + BEHIND_DIGITS))
        return next((row for row in found if hmac.compare_digest(row["hash"], key_hash)), None)

    def _as(self, caller: Caller, role: str | None) -> Caller:
        """The caller in a role, which his user must have still."""
        wanted = role_key(role) if role else caller.role
        with self._store.reading() as tx:
            held = self._identities.roles_of(tx, caller.account, caller.user)
            if not self._guard.may(tx, caller, Action.TAKE_ANY_ROLE):
                held &= self._identities.roles_within(tx, caller.account, caller.role)
        if wanted not in held:
            raise NotAllowed(
                f"Key {caller.key} of user {caller.user}, role {caller.role}, does not have the role {wanted}."
            )
        return caller.model_copy(update={"role": wanted})

    def _own(self, tx: sa.Connection, caller: Caller) -> Session:
        """What the caller has himself, to give in a key; by the store, not by what he says."""
        if caller.key is None:
            return Session(caller=caller, expires_on=self._token_keys_end())
        return _session(self._get(tx, caller, caller.key))

    def _covers(self, tx: sa.Connection, caller: Caller, other: Session) -> bool:
        """Whether the caller's key opens all that another does."""
        within = self._identities.roles_within(tx, caller.account, caller.role)
        is_within = other.caller.role in within or self._guard.may(tx, caller, Action.ADMINISTER)
        return is_within and self._own(tx, caller).scope.covers(other.scope)

    def _token_keys_end(self) -> int | None:
        """A provider that withdraws a user tells nobody: what his tokens made has to end by itself."""
        if self._token_key_days == 0:
            raise NotAllowed("A token makes no keys here (`oidc_max_key_days`). Use a key.")
        return None if self._token_key_days is None else self._clock() + self._token_key_days * DAY_MS

    def _role_for(self, tx: sa.Connection, caller: Caller, user: str) -> str:
        if user == caller.user:
            return caller.role
        return self._identities.default_role(tx, caller.account, user)

    def _check_may_give(self, tx: sa.Connection, own: Session, given: Session) -> None:
        caller, to = own.caller, given.caller
        self._check_for_whom(tx, caller, to.user)
        within = self._identities.roles_within(tx, caller.account, caller.role)
        if to.role not in within and not self._guard.may(tx, caller, Action.ADMINISTER):
            raise NotAllowed(f"Role {to.role} is not within {caller.role}: a key has no more than its maker has.")
        if to.role not in self._identities.roles_of(tx, to.account, to.user):
            raise NotAllowed(f"User {to.user} does not have the role {to.role}.")
        if not own.scope.covers(given.scope):
            raise NotAllowed(f"Key {caller.key} has the scope: {own.scope}. It makes no key with more: {given.scope}.")
        if own.expires_on is not None and (given.expires_on is None or given.expires_on > own.expires_on):
            maker = f"Key {caller.key} ends {_when(own.expires_on)}: it makes" if caller.key else "A token makes"
            raise NotAllowed(f"{maker} no key that lives longer than until {_when(own.expires_on)}. Say when it ends.")

    def _check_unlimited(self, tx: sa.Connection, caller: Caller, *keys: str | None) -> None:
        """Budgets and rate limits are a key's own: one that is made of it would be without."""
        ids = [key for key in keys if key]
        scopes = self._limits.c.scope.in_([budget_scope(BudgetKind.KEY, key) for key in ids])
        rated = sa.select(self._rates.c.account).where(
            self._rates.c.account == caller.account, self._rates.c.key.in_(ids)
        )
        limited = sa.select(self._limits.c.account).where(self._limits.c.account == caller.account, scopes)
        if tx.execute(sa.union_all(limited, rated)).first() and not self._guard.may(tx, caller, Action.ADMINISTER):
            raise NotAllowed(
                f"Key {ids[-1]} has a budget or a rate limit, and a key made of it would have none. Ask {ADMIN_ROLE}."
            )

    def _check_for_whom(self, tx: sa.Connection, caller: Caller, user: str) -> None:
        """Before anything is told of the user."""
        if not self._guard.may(tx, caller, Action.MANAGE_KEY, Securable(ObjectKind.KEY, maker=user)):
            raise NotAllowed(f"Only {ADMIN_ROLE} makes keys for others; you are {caller.user} as {caller.role}.")

    def _insert(self, tx: sa.Connection, caller: Caller, new: NewKey, given: Session) -> KeyInfo:
        row = {
            **given.caller.identity,
            **new.model_dump(include={"id", "hash", "prefix", "name"}),
            "scope": given.scope.model_dump(mode="json", exclude_defaults=True),
            "expires_on": given.expires_on,
            "created_on": self._clock(),
            "created_by": caller.user,
        }
        tx.execute(sa.insert(self._keys).values(**row))
        return KeyInfo.from_row(self._get(tx, caller, new.id))

    def _same(self, caller: Caller, row: Row, new: NewKey) -> KeyInfo:
        """The verb was called twice."""
        if row["account"] != caller.account or row["hash"] != new.hash:
            raise Conflict(f"Key {new.id} is another one.")
        return KeyInfo.from_row(row)

    def _get(self, tx: sa.Connection, caller: Caller, key_id: str) -> Row:
        row = self._found(tx, self._keys.c.id == key_id, self._reach(tx, caller))
        if row is None:
            raise NotFound(f"No key {key_id!r}. `luthier keys list` shows yours.")
        return row

    def _reach(self, tx: sa.Connection, caller: Caller) -> sa.ColumnElement[bool]:
        return self._guard.made(tx, caller, Action.MANAGE_KEY, ObjectKind.KEY, self._keys)

    def _found(self, tx: sa.Connection, *where: sa.ColumnElement[bool]) -> Row | None:
        return fetch_first(tx, sa.select(self._keys).where(*where))

    def _update(self, tx: sa.Connection, key_id: str, **values: Any) -> None:
        tx.execute(sa.update(self._keys).where(self._keys.c.id == key_id).values(**values))


def _session(row: Row) -> Session:
    caller = Caller(account=row["account"], user=row["user"], role=row["role"], key=row["id"])
    return Session(caller=caller, scope=Scope.model_validate(row["scope"]), expires_on=row["expires_on"])


def _check_may_rotate(row: Row, now: int) -> None:
    if row["revoked_on"] is not None or (row["expires_on"] is not None and row["expires_on"] <= now):
        raise Conflict(f"Key {row['id']} works no more: make a new one with `luthier keys create`.")
    if row["rotated_to"] is not None:
        raise Conflict(f"Key {row['id']} was rotated already: key {row['rotated_to']} has its place.")


def _expired(row: Row) -> str:
    return "expired" if row["rotated_to"] is None else f"expired, as key {row['rotated_to']} took its place,"


def _ended(caller: Caller, how: str, time: int) -> NotAuthenticated:
    error = NotAuthenticated(
        f"API key {caller.key} {how} on {_when(time)}. Use another; `luthier keys create` makes one."
    )
    error.caller = caller
    return error


def _when(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).isoformat(sep=" ", timespec="seconds")
