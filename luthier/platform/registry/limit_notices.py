"""What limits tell their account's webhooks: once in a period, and once for each amount that was granted."""

import logging
from collections.abc import Callable

import sqlalchemy as sa

from luthier.platform.credits import ACCOUNT
from luthier.platform.prices import to_credits
from luthier.platform.registry.notices import Notices
from luthier.platform.store import Row, Store
from luthier.platform.webhooks import NoticeType

log = logging.getLogger(__name__)

TOLD_ON = {
    NoticeType.BUDGET_PASSED: "passed_on",
    NoticeType.BUDGET_REFUSED: "refused_on",
    NoticeType.BALANCE_REFUSED: "refused_on",
    NoticeType.BALANCE_LOW: "low_on",
    NoticeType.BALANCE_OVERDRAWN: "overdrawn_on",
}
"""When each was told."""
UNTOLD = dict.fromkeys(TOLD_ON.values())


class LimitNotices:
    def __init__(self, store: Store, clock: Callable[[], int]) -> None:
        self._clock, self._limits, self._notices = clock, store.table("limits"), Notices(store, clock)

    def refused(self, tx: sa.Connection, limit: Row) -> None:
        """Somebody was, for want of it."""
        self._tell(tx, NoticeType.BUDGET_REFUSED if limit["scope"] else NoticeType.BALANCE_REFUSED, limit)

    def spent(self, tx: sa.Connection, limit: Row) -> None:
        """Of a soft budget that it is passed, of a balance that little is left or too little."""
        if not limit["is_hard"] and limit["spent_ucr"] > limit["granted_ucr"] and limit["passed_on"] is None:
            log.warning("%s %s: the soft budget is passed", limit["account"], limit["scope"])
            self._tell(tx, NoticeType.BUDGET_PASSED, limit)
        alert = limit["alert_ucr"]
        if alert is not None and limit["granted_ucr"] - limit["spent_ucr"] < alert:
            self._tell(tx, NoticeType.BALANCE_LOW, limit, alert)
        if limit["scope"] == ACCOUNT and limit["spent_ucr"] > limit["granted_ucr"]:
            self._tell(tx, NoticeType.BALANCE_OVERDRAWN, limit)

    def _tell(self, tx: sa.Connection, type: NoticeType, limit: Row, *of: int) -> None:
        """Unless it is told already: the limit alone knows that, and forgets it when it is another."""
        if limit[TOLD_ON[type]] is not None:
            return
        now, columns = self._clock(), self._limits.c
        its = sa.update(self._limits).where(columns.account == limit["account"], columns.scope == limit["scope"])
        tx.execute(its.values({TOLD_ON[type]: now}))
        kind, _, name = limit["scope"].partition(":")
        owner = {"kind": kind, "name": name, "period": limit["period"], "is_hard": limit["is_hard"]} if kind else {}
        amounts = {"granted": limit["granted_ucr"], "spent": limit["spent_ucr"]}
        if of:
            amounts["alert"] = of[0]
        told = {name: f"{to_credits(ucr):f}" for name, ucr in amounts.items()}
        once = (limit["scope"], now, limit["granted_ucr"], *of)
        self._notices.tell(tx, type, limit["account"], once, **owner, **told)
