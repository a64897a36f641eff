"""Verbs on rate limits: set, show, unset; and for processes that answer, their parts of a minute's allowance."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from luthier.errors import NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.credits import new_total
from luthier.platform.privileges import Action
from luthier.platform.rates import (
    ANY,
    MINUTE_MS,
    Asker,
    Limited,
    RateGrant,
    RateLimit,
    RateName,
    RateRenewal,
    RateWant,
    Unit,
    check_limit,
    limits_on,
)
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.store import Store

MUCH = 2**62
KEPT_MINUTES = 60
"""Longer than any clock is set back; then a minute's leases are forgotten."""


def place_of(limit: RateLimit) -> str:
    """In the list of an account's."""
    return f"{limit.key or ANY}:{limit.model or ANY}"


class Rates:
    """The account's administrator's. A minute's leases are rows, so a registry that comes back knows them all."""

    def __init__(self, store: Store, guard: Guard, catalog: Catalog, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._catalog, self._clock = store, guard, catalog, clock
        self._limits, self._leases, self._keys = map(store.table, ("rate_limits", "rate_leases", "keys"))

    # what people ask

    def set(self, caller: Caller, limit: RateLimit) -> RateLimit:
        """From now on, in the place of what was; replicas know it within seconds."""
        check_limit(limit)
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            if limit.key is not None:
                self._check_key(tx, caller, limit.key)
            tx.execute(sa.delete(self._limits).where(self._is(caller, limit)))
            now = self._clock()
            row = {"account": caller.account, "key": limit.key or ANY, "model": limit.model or ANY, "created_on": now}
            for unit in Unit:
                if (allowed := getattr(limit, unit.value)) is not None:
                    tx.execute(sa.insert(self._limits).values(**row, unit=unit.value, allowed=allowed))
        return limit

    def show(self, caller: Caller, limit: int = MAX_SHOWN, after: str | None = None) -> list[RateLimit]:
        """By keys, then models, from behind a place."""
        columns = self._limits.c
        named = sa.tuple_(columns.key, columns.model)
        query = sa.select(columns.key, columns.model).where(columns.account == caller.account).distinct()
        if after is not None:
            key, _, model = after.partition(":")
            query = query.where(named > sa.tuple_(key, model))
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            page = query.order_by(columns.key, columns.model).limit(min(limit, MAX_SHOWN)).subquery()
            return self._all(tx, caller, named.in_(sa.select(page.c.key, page.c.model)))

    def policies(self, caller: Caller) -> list[RateLimit]:
        """Of models, whoever asks them. Who may not see the account's usage is told of base models alone."""
        with self._store.reading() as tx:
            sees_all = self._guard.may(tx, caller, Action.SEE_USAGE)
            found = [limit for limit in self._all(tx, caller) if limit.key is None and limit.model]
        return [limit for limit in found if sees_all or self._catalog.find(limit.model or "")]

    def unset(self, caller: Caller, key: str | None, model: str | None) -> RateLimit:
        """From now on nothing limits this key, model, or key on a model, but what others do."""
        named = RateLimit(key=key, model=model)
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            for limit in self._all(tx, caller):
                if (limit.key, limit.model) == (key, model):
                    tx.execute(sa.delete(self._limits).where(self._is(caller, named)))
                    return limit
        raise NotFound("No such rate limit. `luthier limits list` shows those there are.")

    # what replicas ask

    def renew(self, holder: str, asking: Sequence[Asker], wants: Sequence[RateWant]) -> RateRenewal:
        """What limits those who ask, and more or less of this minute's allowance, or of the next one's."""
        minute, passed = divmod(self._clock(), MINUTE_MS)
        with self._store.transaction() as tx:
            accounts = {*(each.account for each in asking), *(want.name.account for want in wants)}
            limits = self._of_accounts(tx, accounts, are_locked=True)
            if wants:
                tx.execute(sa.delete(self._leases).where(self._leases.c.minute < minute - KEPT_MINUTES))
            grants = [self._grant(tx, holder, want, minute, dict(limits)) for want in wants]
        told = [limits_on(each, limits) for each in asking]
        return RateRenewal(minute=minute, left_ms=MINUTE_MS - passed, limits=told, grants=grants)

    def _grant(
        self, tx: sa.Connection, holder: str, want: RateWant, minute: int, allowed: dict[RateName, int]
    ) -> RateGrant:
        if want.minute not in (minute, minute + 1):
            return RateGrant(total=None, left=0)
        if want.name not in allowed:  # it is no limit any more
            return RateGrant(total=want.total, left=MUCH)
        columns = self._leases.c
        own = (*_named(columns, want.name), columns.minute == want.minute)
        held = {row.holder: row for row in tx.execute(sa.select(self._leases).where(*own))}
        lease = held.get(holder)
        amount, turn = (lease.amount, lease.turn) if lease else (0, 0)
        left = max(0, allowed[want.name] - sum(row.amount for row in held.values()))
        if want.turn <= turn:
            return RateGrant(total=amount, left=left)
        total = new_total((want.total, want.need), amount, 0, left)
        if lease:
            tx.execute(
                sa.update(self._leases).where(*own, columns.holder == holder).values(amount=total, turn=want.turn)
            )
        else:
            row = {**want.name._asdict(), "unit": want.name.unit.value, "minute": want.minute, "holder": holder}
            tx.execute(sa.insert(self._leases).values(**row, amount=total, turn=want.turn))
        return RateGrant(total=total, left=max(0, left - (total - amount)))

    # rows

    def _all(self, tx: sa.Connection, caller: Caller, *its: sa.ColumnElement[bool]) -> list[RateLimit]:
        found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for (_, key, model, unit), allowed in self._of_accounts(tx, [caller.account], *its):
            found[key, model][unit] = allowed
        return [RateLimit(key=key or None, model=model or None, **units) for (key, model), units in found.items()]

    def _of_accounts(
        self, tx: sa.Connection, accounts: Iterable[str], *its: sa.ColumnElement[bool], are_locked: bool = False
    ) -> list[Limited]:
        """Locked against who takes of the same at once, where the store has several writers."""
        columns = self._limits.c
        query = sa.select(self._limits).where(columns.account.in_(sorted(set(accounts))), *its)
        query = query.with_for_update() if are_locked else query
        rows = tx.execute(query.order_by(columns.account, columns.key, columns.model, columns.unit))
        return [Limited(RateName(row.account, row.key, row.model, Unit(row.unit)), row.allowed) for row in rows]

    def _is(self, caller: Caller, limit: RateLimit) -> sa.ColumnElement[bool]:
        columns = self._limits.c
        whose = (columns.account == caller.account, columns.key == (limit.key or ANY))
        return sa.and_(*whose, columns.model == (limit.model or ANY))

    def _check_key(self, tx: sa.Connection, caller: Caller, key: str) -> None:
        columns = self._keys.c
        found = sa.select(columns.id).where(columns.account == caller.account, columns.id == key)
        if tx.execute(found).first() is None:
            raise NotFound(f"No key {key} in this account. `luthier keys list` shows those there are.")


def _named(columns: Any, name: RateName) -> tuple[sa.ColumnElement[bool], ...]:
    return tuple(columns[part] == str(value) for part, value in name._asdict().items())
