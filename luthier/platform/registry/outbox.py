"""Verbs for whoever delivers notices: what is due, how it went, what is forgotten, and what signs it."""

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luthier.platform.registry.retention import MAX_FORGOTTEN
from luthier.platform.store import Row, Store, fetch
from luthier.platform.webhooks import (
    KEPT_MS,
    MAX_OF_ACCOUNT,
    MAX_TOLD,
    MAX_UNDER_WAY,
    MOST_AGE_MS,
    Delivery,
    Notice,
    Outcome,
    Webhook,
    pause_s,
    rest_s,
    secret_of,
)
from luthier.platform.whole_files import made_once


class Outbox:
    def __init__(self, store: Store, home: Path, clock: Callable[[], int]) -> None:
        self._store, self._home, self._clock = store, home, clock
        names = ("webhooks", "notices", "deliveries")
        self._webhooks, self._told, self._deliveries = (store.table(name) for name in names)

    def due(self, under_way: Collection[str] = ()) -> list[Delivery]:
        """The next of each webhook that does not rest, those first that were sent to longest ago; few of an account,
        those under way among them."""
        hooks, waiting, now = self._webhooks.c, self._deliveries.alias(), self._clock()
        is_next = (waiting.c.webhook == hooks.id, waiting.c.next_on <= now)
        first = sa.select(waiting.c.number).where(*is_next).order_by(waiting.c.next_on, waiting.c.number).limit(1)
        is_under_way = hooks.id.in_(list(under_way))
        is_up = sa.or_(hooks.failures == 0, hooks.rests_until <= now)
        order = (sa.case((is_under_way, 0), else_=1), hooks.rests_until, hooks.id)
        ready = sa.select(
            hooks.id,
            first.scalar_subquery().label("first"),
            sa.func.row_number().over(partition_by=hooks.account, order_by=order).label("turn"),
        ).where(is_up, hooks.ended_on.is_(None), sa.exists().where(*is_next))
        turns = ready.subquery()
        query = (
            sa.select(self._deliveries.c.number, self._deliveries.c.attempts, self._told, self._webhooks)
            .set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
            .join(turns, turns.c.first == self._deliveries.c.number)
            .join(self._told, self._told.c.id == self._deliveries.c.notice)
            .join(self._webhooks, hooks.id == turns.c.id)
            .where(turns.c.turn <= MAX_OF_ACCOUNT, ~is_under_way)
            .order_by(hooks.rests_until, hooks.id)
            .limit(max(0, MAX_UNDER_WAY - len(under_way)))
        )
        with self._store.reading() as tx:
            return [_to_delivery(row) for row in fetch(tx, query)]

    def delivered(self, number: int, attempt: int, outcome: Outcome) -> None:
        """How an attempt ended; told twice, it counts once."""
        columns, now = self._deliveries.c, self._clock()
        pause = None if outcome.is_gone else pause_s(attempt)
        values: Row = {"attempts": attempt, "told": outcome.told[:MAX_TOLD], "next_on": None}
        if outcome.is_taken:
            values["taken_on"] = now
        elif pause is None:
            values["given_up_on"] = now
        else:
            values["next_on"] = now + pause * 1000
        own = (columns.number == number, columns.attempts == attempt - 1)
        with self._store.transaction() as tx:
            told = tx.execute(sa.update(self._deliveries).where(*own).values(**values).returning(columns.webhook))
            webhook = told.scalar()
            if webhook is not None:
                self._rest(tx, webhook, outcome, now)

    def forget(self) -> int:
        """Notices that all who wanted them were told of, or never will be, longer ago than they are kept; how many."""
        notices, its = self._told.c, self._deliveries.c
        cutoff = self._clock() - KEPT_MS
        is_young = sa.or_(its.next_on.is_not(None), its.taken_on >= cutoff, its.given_up_on >= cutoff)
        is_old = (notices.time < cutoff, ~sa.exists().where(its.notice == notices.id, is_young))
        oldest = sa.select(notices.id).where(*is_old).order_by(notices.time).limit(MAX_FORGOTTEN)
        with self._store.transaction() as tx:
            gone = list(tx.execute(oldest).scalars())
            tx.execute(sa.delete(self._deliveries).where(its.notice.in_(gone)))
            return tx.execute(sa.delete(self._told).where(notices.id.in_(gone))).rowcount

    def secret(self, id: str) -> str:
        """For whoever signs, in the registry's own process."""
        return secret_of(self._master(), id)

    def _rest(self, tx: sa.Connection, webhook: str, outcome: Outcome, now: int) -> None:
        """After a failure nothing is sent for a while; what is too old by then is given up, of a gone webhook all."""
        hooks, its = self._webhooks.c, self._deliveries.c
        hook = sa.update(self._webhooks).where(hooks.id == webhook)
        if outcome.is_taken:
            tx.execute(hook.values(failures=0, rests_until=now))
            return
        failures = 1 + tx.execute(sa.select(hooks.failures).where(hooks.id == webhook)).scalar_one()
        ended = {"ended_on": now} if outcome.is_gone else {}
        tx.execute(hook.values(failures=failures, rests_until=now + rest_s(failures) * 1000, **ended))
        is_old = sa.exists().where(self._told.c.id == its.notice, self._told.c.time < now - MOST_AGE_MS)
        lost = (its.webhook == webhook, its.next_on.is_not(None), sa.true() if outcome.is_gone else is_old)
        tx.execute(sa.update(self._deliveries).where(*lost).values(next_on=None, given_up_on=now))

    def _master(self) -> bytes:
        """The home's own secret."""
        return made_once(self._home / "webhooks.key", lambda: secrets.token_bytes(32))


def _to_delivery(row: Row) -> Delivery:
    def part(table: str, kind: type[Any]) -> Any:
        return kind(**{name: row[f"{table}_{name}"] for name in kind.model_fields})

    attempt = row["deliveries_attempts"] + 1
    notice, webhook = part("notices", Notice), part("webhooks", Webhook)
    return Delivery(number=row["deliveries_number"], attempt=attempt, notice=notice, webhook=webhook)
