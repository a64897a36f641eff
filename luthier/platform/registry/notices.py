"""Rows of notices and their deliveries, written in the transaction that notices."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from luthier.platform.store import Store
from luthier.platform.webhooks import Notice, NoticeType, notice_id


class Notices:
    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._store, self._clock = store, clock
        self._webhooks, self._deliveries = store.table("webhooks"), store.table("deliveries")

    def tell(self, tx: sa.Connection, type: NoticeType, account: str, of: tuple[object, ...], **data: Any) -> bool:
        """Once for each that it is `of`; with it go its deliveries. Whether it is new."""
        now = self._clock()
        return self.put(tx, Notice(id=notice_id(type, account, *of), account=account, type=type, time=now, data=data))

    def put(self, tx: sa.Connection, notice: Notice, only: str | None = None) -> bool:
        """To all webhooks that want it, or to one."""
        if not self._store.insert_missing(tx, "notices", [notice.model_dump(mode="json")]):
            return False
        columns = self._webhooks.c
        wanted = columns.account == notice.account if only is None else columns.id == only
        query = sa.select(columns.id, columns.types).where(wanted, columns.ended_on.is_(None))
        ids = [row.id for row in tx.execute(query) if only or row.types is None or notice.type.value in row.types]
        rows = [{"notice": notice.id, "webhook": id, "attempts": 0, "next_on": notice.time, "told": ""} for id in ids]
        if rows:
            tx.execute(sa.insert(self._deliveries), rows)
        return True
