"""Verbs on rate limits: set, show, unset; and for processes that answer, their parts of a minute's allowance."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog
from luthier.platform.privileges import Action
from luthier.platform.rates import (
    ANY,
    MAX_LIMITS,
    MINUTE_MS,
    Asker,
    Limited,
    RateLimit,
    RateName,
    RateRenewal,
    RateWant,
    Unit,
    check_limit,
    names_on,
)
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.paging import MAX_SHOWN
from luthier.platform.registry.rate_lending import RateLending
from luthier.platform.store import Store, exists

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
            self._check_room(tx, caller)
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
        own = [names_on(each) for each in asking]
        with self._store.transaction() as tx:
            allowed = self._allowed(tx, {want.name for want in wants}.union(*own))
            if wants:
                tx.execute(sa.delete(self._leases).where(self._leases.c.minute < minute - KEPT_MINUTES))
            grants = RateLending(self._store, tx, holder, (minute, minute + 1)).lend(wants, allowed)
        limits = [tuple(Limited(name, allowed[name]) for name in names if name in allowed) for names in own]
        return RateRenewal(minute=minute, left_ms=MINUTE_MS - passed, limits=limits, grants=grants)

    # rows

    def _all(self, tx: sa.Connection, caller: Caller, *its: sa.ColumnElement[bool]) -> list[RateLimit]:
        columns = self._limits.c
        query = sa.select(self._limits).where(columns.account == caller.account, *its)
        found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        for row in tx.execute(query.order_by(columns.key, columns.model)):
            found[row.key, row.model][row.unit] = row.allowed
        return [RateLimit(key=key or None, model=model or None, **units) for (key, model), units in found.items()]

    def _allowed(self, tx: sa.Connection, names: Collection[RateName]) -> dict[RateName, int]:
        """By those of the limits that there are; locked against who takes of the same at once."""
        if not names:
            return {}
        columns = [self._limits.c[field] for field in RateName._fields]
        given = self._store.given("rate_limits", [name._asdict() for name in sorted(names)])
        query = sa.select(*columns, self._limits.c.allowed).order_by(*columns).with_for_update(of=self._limits)
        rows = tx.execute(query.join(given, sa.and_(*(column == given.c[column.name] for column in columns))))
        return {RateName(row.account, row.key, row.model, Unit(row.unit)): row.allowed for row in rows}

    def _check_room(self, tx: sa.Connection, caller: Caller) -> None:
        columns = self._limits.c
        places = sa.select(columns.key, columns.model).where(columns.account == caller.account).distinct().subquery()
        if tx.execute(sa.select(sa.func.count()).select_from(places)).scalar_one() >= MAX_LIMITS:
            raise Conflict(f"An account has at most {MAX_LIMITS} rate limits. Unset one first.")

    def _is(self, caller: Caller, limit: RateLimit) -> sa.ColumnElement[bool]:
        columns = self._limits.c
        whose = (columns.account == caller.account, columns.key == (limit.key or ANY))
        return sa.and_(*whose, columns.model == (limit.model or ANY))

    def _check_key(self, tx: sa.Connection, caller: Caller, key: str) -> None:
        columns = self._keys.c
        if not exists(tx, columns.account == caller.account, columns.id == key):
            raise NotFound(f"No key {key} in this account. `luthier keys list` shows those there are.")
