"""Verbs on webhooks: add, show, remove, test; and the outbox for whoever delivers."""

import os
import secrets
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.notices import Notices
from luthier.platform.store import Store
from luthier.platform.webhooks import (
    MAX_TOLD,
    MAX_WEBHOOKS,
    Delivery,
    DeliveryState,
    Notice,
    NoticeInfo,
    NoticeType,
    Outcome,
    Webhook,
    notice_id,
    pause_s,
    secret_of,
)

MAX_DUE, MAX_SEEN = 50, 1000
Row = dict[str, Any]


class Webhooks:
    """The account's administrator's."""

    def __init__(self, store: Store, guard: Guard, home: Path, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._home, self._clock = store, guard, home, clock
        self._notices = Notices(store, clock)
        names = ("webhooks", "notices", "deliveries")
        self._webhooks, self._told, self._deliveries = (store.table(name) for name in names)

    # what people ask

    def add(self, caller: Caller, id: str, url: str, types: tuple[NoticeType, ...] | None) -> tuple[Webhook, str]:
        """With its secret, which is shown this once. The same id again is the same webhook."""
        by, now = f"{caller.account}.{caller.user}", self._clock()
        webhook = Webhook(id=id, account=caller.account, url=url, types=types, created_on=now, created_by=by)
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            known = self._of_account(tx, caller)
            if len(known) >= MAX_WEBHOOKS and id not in [each.id for each in known]:
                raise Conflict(f"An account has at most {MAX_WEBHOOKS} webhooks. Remove one first.")
            self._store.insert_missing(tx, "webhooks", [webhook.model_dump(mode="json")])
        return webhook, secret_of(self._master(), id)

    def show(self, caller: Caller) -> list[Webhook]:
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            return self._of_account(tx, caller)

    def remove(self, caller: Caller, id: str) -> Webhook:
        """What is on its way to it is not sent any more."""
        with self._guard.change(caller) as tx:
            webhook = self._find(tx, caller, id)
            tx.execute(sa.delete(self._deliveries).where(self._deliveries.c.webhook == id))
            tx.execute(sa.delete(self._webhooks).where(self._webhooks.c.id == id))
        return webhook

    def test(self, caller: Caller, id: str, nonce: str) -> Notice:
        """A notice to this webhook alone; the same nonce again is the same notice."""
        type, now = NoticeType.TEST, self._clock()
        with self._guard.change(caller) as tx:
            self._find(tx, caller, id)
            data = {"webhook": id}
            notice = Notice(
                id=notice_id(type, caller.account, id, nonce), account=caller.account, type=type, time=now, data=data
            )
            self._notices.put(tx, notice, only=id)
        return notice

    def notices(self, caller: Caller, limit: int = 100) -> list[NoticeInfo]:
        """Newest first, and how far each has come."""
        columns, told = self._told.c, defaultdict(list)
        query = sa.select(self._told).where(columns.account == caller.account)
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            rows = tx.execute(query.order_by(columns.number.desc()).limit(limit)).mappings().all()
            ids = [row["id"] for row in rows]
            for row in tx.execute(sa.select(self._deliveries).where(self._deliveries.c.notice.in_(ids))).mappings():
                told[row["notice"]].append(_fields(DeliveryState, dict(row)))
        return [NoticeInfo(**_fields(Notice, dict(row)).model_dump(), deliveries=told[row["id"]]) for row in rows]

    # what whoever delivers asks

    def due(self) -> list[Delivery]:
        """The next of each webhook, so that none waits behind another's."""
        columns = self._deliveries.c
        waits = (columns.next_on.is_not(None), columns.next_on <= self._clock())
        query = sa.select(columns.number, columns.attempts, self._told, self._webhooks).set_label_style(
            sa.LABEL_STYLE_TABLENAME_PLUS_COL
        )
        query = query.join(self._told, self._told.c.id == columns.notice)
        query = query.join(self._webhooks, self._webhooks.c.id == columns.webhook)
        with self._store.reading() as tx:
            rows = tx.execute(query.where(*waits).order_by(columns.next_on, columns.number).limit(MAX_SEEN)).mappings()
            found = [_to_delivery(dict(row)) for row in rows]
        firsts = {each.webhook.id: each for each in reversed(found)}
        return list(firsts.values())[:MAX_DUE]

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
        with self._store.transaction() as tx:
            own = (columns.number == number, columns.attempts == attempt - 1)
            tx.execute(sa.update(self._deliveries).where(*own).values(**values))
            if outcome.is_gone:
                webhook = sa.select(columns.webhook).where(columns.number == number).scalar_subquery()
                tx.execute(sa.update(self._webhooks).where(self._webhooks.c.id == webhook).values(ended_on=now))

    def secret(self, id: str) -> str:
        """For whoever signs, in the registry's own process."""
        return secret_of(self._master(), id)

    # rows

    def _of_account(self, tx: sa.Connection, caller: Caller) -> list[Webhook]:
        columns = self._webhooks.c
        query = sa.select(self._webhooks).where(columns.account == caller.account).order_by(columns.created_on)
        return [_fields(Webhook, dict(row)) for row in tx.execute(query).mappings()]

    def _find(self, tx: sa.Connection, caller: Caller, id: str) -> Webhook:
        self._guard.check(tx, caller, Action.ADMINISTER)
        found = next((each for each in self._of_account(tx, caller) if each.id == id), None)
        if found is None:
            raise NotFound(f"No webhook {id!r}. `luthier webhooks list` shows those there are.")
        return found

    def _master(self) -> bytes:
        """The home's own secret, made when it is first needed. Readable by its owner alone."""
        file = self._home / "webhooks.key"
        if not file.exists():
            self._home.mkdir(parents=True, exist_ok=True)
            fresh = file.with_name(f".webhooks.key-{os.getpid()}-{secrets.token_hex(4)}")
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
                handle.write(secrets.token_bytes(32))
            try:
                os.link(fresh, file)  # whoever comes first
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return file.read_bytes()


def _fields(kind: type[Any], row: Row) -> Any:
    return kind(**{name: row[name] for name in kind.model_fields})


def _to_delivery(row: Row) -> Delivery:
    def part(table: str, kind: type[Any]) -> Any:
        return kind(**{name: row[f"{table}_{name}"] for name in kind.model_fields})

    attempt = row["deliveries_attempts"] + 1
    notice, webhook = part("notices", Notice), part("webhooks", Webhook)
    return Delivery(number=row["deliveries_number"], attempt=attempt, notice=notice, webhook=webhook)
