"""Credits in the hands of a process that answers: reserved before the work, settled after it, without the registry.

The process holds a lease of each limit that it works under (platform/credits.py). A lease that nobody renewed is not
spent under, some seconds before the registry takes it to be over. So no account is spent below zero, however many
processes work for it. Leases are topped up beside the requests; only who comes when one is empty waits.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from typing import cast

from luthier.errors import PaymentRequired
from luthier.platform import securables
from luthier.platform.access import Caller
from luthier.platform.credits import ALONE_SECONDS, GRACE_MS, Granted, Shortage, Want
from luthier.platform.metering import UsageRecord
from luthier.platform.privileges import Rights, missing
from luthier.platform.registry.credits import Credits
from luthier.serve.metering.leasing import RENEW_SECONDS, Lease, Leasing, Purse, Taken
from luthier.serve.threads import LEASES

UCR = "ucr"


class Short(Exception):
    """For whoever asked: a purse does not know who that is."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(shortage)
        self._shortage = shortage

    def refusal(self, caller: Caller) -> PaymentRequired:
        """No grants are known here: numbers are told to who may see them by his role alone."""
        by_role = Rights(frozenset((caller.role,)))
        error = self._shortage.refusal(missing(self._shortage.is_told_to, by_role, securables.ACCOUNT) is None)
        error.retry_after = 1 if self._shortage.reserved_ucr else None  # what runs may turn out to cost less
        return error


class _Purse(Purse):
    PERIODS = round(ALONE_SECONDS / RENEW_SECONDS) + 1  # while nobody renews it, too

    def __init__(self, account: str, scope: str, clock: Callable[[], float]) -> None:
        super().__init__(UCR, clock)
        self.account, self.scope = account, scope
        self._num_refused = self._num_telling = self._num_told = 0

    def want(self) -> Want:
        lease = self.lease
        total, need = self._aim(lease, self.waiting)
        self._num_telling = self._num_refused
        return Want(
            id=lease.id,
            account=self.account,
            scope=self.scope,
            turn=lease.turn,
            total_ucr=total,
            need_ucr=need,
            has_refused=self._num_refused > self._num_told,
        )

    def renewed(self, granted: Granted, sent: float) -> None:
        self._num_told = self._num_telling
        if granted.total_ucr is None:  # it ended without us; what runs under it will be told as an overrun
            self.lease = Lease()
            return
        lease = self.lease
        lease.left, lease.told = granted.left_ucr, sent
        lease.total = granted.total_ucr
        lease.ends = sent + ALONE_SECONDS

    def refused(self, amount: int) -> Exception:
        self._num_refused += 1
        return Short(Shortage(self.scope, amount, max(0, self.room) + self.lease.left, self.lease.open))


class Reservation(Taken[Caller]):
    """Credits of one request, of all that limits its caller."""

    async def take(self, ucr: int) -> None:
        """Reserves more. PaymentRequired when there is not so much; Unavailable when nobody can tell."""
        try:
            await self.take_all({UCR: ucr})
        except Short as short:
            raise short.refusal(self._who) from None

    def settle(self, ucr: int) -> tuple[str, ...]:
        """Ends it with what the work cost; the rest is free again. The leases that pay."""
        return self.settle_all({UCR: ucr})


class Leases(Leasing[Caller]):
    """Of credits."""

    def __init__(
        self, verbs: Credits, holder: str, clock: Callable[[], float] = time.monotonic, grace_ms: int = GRACE_MS
    ) -> None:
        """`grace_ms`: so long after this process' end its usage may still come."""
        super().__init__("credits", clock)
        self._verbs, self._holder, self._grace_ms = verbs, holder, grace_ms

    def open(self, caller: Caller) -> Reservation:
        self.expect(caller)
        return Reservation(self, caller)

    def give_back(self, records: Sequence[UsageRecord]) -> None:
        """Their requests are billed to other answers: what these took is free again, where it is sure how much of which
        lease that was. All leases of each are in hand: so each is of another limit, and paid all of it."""
        for record in records:
            own = [purse.lease for purse in self._purses.values() if purse.lease.id in record.leases]
            if len(own) == len(record.leases) and not any(lease.is_short for lease in own):
                for lease in own:
                    lease.used -= record.amount_ucr

    def _make(self, limit: Hashable) -> Purse:
        return _Purse(*cast(tuple[str, str], limit), self._clock)

    async def _renew(self, purses: Sequence[Purse], asking: Sequence[Caller]) -> None:
        own = cast(Sequence[_Purse], purses)
        sent, wants = self._clock(), [purse.want() for purse in own]
        answer = await LEASES.run(self._verbs.renew, self._holder, asking, wants, self._grace_ms)
        for purse, granted in zip(own, answer.leases, strict=True):
            purse.renewed(granted, sent)
        for caller, scopes in zip(asking, answer.limits, strict=True):
            self._know(caller, tuple((caller.account, scope) for scope in scopes), sent)
