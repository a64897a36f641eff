"""Verbs on webhooks: add, show, remove, test."""

from collections import defaultdict
from collections.abc import Callable

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound, Overloaded
from luthier.platform.access import Caller
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.notices import Notices
from luthier.platform.registry.outbox import Outbox
from luthier.platform.registry.paging import numbered_page
from luthier.platform.registry.usage import HOUR_MS
from luthier.platform.store import Store, exists, fetch
from luthier.platform.webhooks import (
    MAX_TESTS,
    MAX_WAITING,
    MAX_WEBHOOKS,
    DeliveryState,
    Notice,
    NoticeInfo,
    NoticeType,
    Webhook,
    notice_id,
)


class Webhooks:
    """The account's administrator's."""

    def __init__(self, store: Store, guard: Guard, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._store, self._guard, self._outbox, self._clock = store, guard, outbox, clock
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
        return webhook, self._outbox.secret(id)

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
            if not exists(tx, self._told.c.id == notice.id):
                self._check_may_test(tx, caller.account)
                self._notices.put(tx, notice, only=id)
        return notice

    def notices(self, caller: Caller, limit: int = 100, after: str | None = None) -> list[NoticeInfo]:
        """Newest first, and how far each has come; from behind a notice's id."""
        columns, told = self._told.c, defaultdict(list)
        query = sa.select(self._told).where(columns.account == caller.account)
        with self._store.reading() as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            page = numbered_page(tx, query, columns.number, columns.id, limit, after)
            rows = fetch(tx, page)
            ids = [row["id"] for row in rows]
            for row in fetch(tx, sa.select(self._deliveries).where(self._deliveries.c.notice.in_(ids))):
                told[row["notice"]].append(DeliveryState.from_row(row))
        return [NoticeInfo(**Notice.from_row(row).model_dump(), deliveries=told[row["id"]]) for row in rows]

    # rows

    def _check_may_test(self, tx: sa.Connection, account: str) -> None:
        """Whoever tests again and again has no more of the deliverer than others."""
        hooks, its, notices = self._webhooks.c, self._deliveries.c, self._told.c
        waiting = sa.select(its.number).join(self._webhooks, hooks.id == its.webhook)
        waiting = waiting.where(hooks.account == account, its.next_on.is_not(None)).limit(MAX_WAITING)
        if len(tx.execute(waiting).all()) >= MAX_WAITING:
            raise Overloaded(
                f"{MAX_WAITING} notices wait for the account's webhooks. Wait until they are delivered, or remove the "
                f"webhook that takes none (luthier webhooks notices).",
                retry_after=60,
            )
        lately = (notices.type == NoticeType.TEST.value, notices.time > self._clock() - HOUR_MS)
        tests = sa.select(notices.number).where(notices.account == account, *lately).limit(MAX_TESTS)
        if len(tx.execute(tests).all()) >= MAX_TESTS:
            raise Overloaded(f"An account has {MAX_TESTS} tests of webhooks an hour. Try again later.", retry_after=600)

    def _of_account(self, tx: sa.Connection, caller: Caller) -> list[Webhook]:
        columns = self._webhooks.c
        query = sa.select(self._webhooks).where(columns.account == caller.account).order_by(columns.created_on)
        return [Webhook.from_row(row) for row in fetch(tx, query)]

    def _find(self, tx: sa.Connection, caller: Caller, id: str) -> Webhook:
        self._guard.check(tx, caller, Action.ADMINISTER)
        found = next((each for each in self._of_account(tx, caller) if each.id == id), None)
        if found is None:
            raise NotFound(f"No webhook {id!r}. `luthier webhooks list` shows those there are.")
        return found
