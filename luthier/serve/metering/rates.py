"""Rate limits in a process that answers: taken before the work, without the registry, never more than is leased here.

Minutes are the registry's. This process has heard when the present one ends, some milliseconds ago; it spends under a
lease of that minute only while it is surely not over, and under one of the next when it has surely begun. Towards the
end of a minute it leases some of the next, so that nobody waits when that begins.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import cast

from luthier.errors import RateLimited
from luthier.platform.access import Caller
from luthier.platform.models import Resolved
from luthier.platform.rates import (
    MINUTE_MS,
    Asker,
    Limited,
    Meter,
    RateGrant,
    RateName,
    RateState,
    RateWant,
    Unit,
    asker,
    over_limit,
)
from luthier.platform.registry.rates import Rates as Verbs
from luthier.serve.metering.leasing import UNKNOWN, Amounts, Lease, Leasing, Purse, Taken
from luthier.serve.threads import LEASES

MINUTE_SECONDS = MINUTE_MS / 1000
GUARD_SECONDS = 0.01
"""For clocks that do not run quite alike: an hour's drift of the worst, in the seconds between two renewals."""
AHEAD_SECONDS = 6.0
"""So long before a minute's end some of the next is leased, in one of three renewals."""
LIVE_SHARE = 2
"""Of each minute one part in so many is for live requests alone: a batch would take all of it when it begins."""
LARGE_MINUTES = 10
"""What a batch asks beyond that in one piece waits so long for a minute of which nothing is used; then it takes any."""


class Minutes:
    """Which minute it is, by what the registry said last."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minute, self._soonest, self._latest = 0, float("inf"), float("inf")

    def heard(self, minute: int, left_ms: int, sent: float) -> None:
        """The answer was made between `sent` and now."""
        self._minute = minute
        self._soonest = sent + left_ms / 1000 - GUARD_SECONDS
        self._latest = self._clock() + left_ms / 1000 + GUARD_SECONDS

    @property
    def present(self) -> int:
        """The one that may have begun last."""
        now = self._clock()
        return self._minute if now < self._soonest else self._minute + 1 + int((now - self._soonest) / MINUTE_SECONDS)

    def begins(self, minute: int) -> float:
        """When it surely has."""
        return self._latest + (minute - self._minute - 1) * MINUTE_SECONDS

    def ends(self, minute: int) -> float:
        """Until when it surely has not."""
        return self._soonest + (minute - self._minute) * MINUTE_SECONDS

    @property
    def seconds_left(self) -> float:
        """After which the present one is surely over."""
        return max(0.0, self.begins(self.present + 1) - self._clock())


class _Purse(Purse):
    """One limit, of which a lease of this minute is in hand, and towards its end one of the next."""

    def __init__(self, limited: Limited, minutes: Minutes, clock: Callable[[], float]) -> None:
        super().__init__(limited.name.unit.value, clock)
        self.limited, self._minutes = limited, minutes
        self._minute, self._next = minutes.present, Lease()
        self.sparing = asyncio.Lock()
        self._large_since: int | None = None
        """The minute since which large ones have waited."""

    @property
    def room(self) -> int:
        self._turn()
        return super().room

    @property
    def pause(self) -> float:
        """Between two minutes, some milliseconds; more when the registry's clock was set back."""
        return min(1.0, max(0.0, self._minutes.begins(self._minute) - self._clock()))

    @property
    def is_done(self) -> bool:
        return self.is_quiet

    @property
    def meter(self) -> Meter:
        left = self.lease.left
        nobodys = self.limited.allowed - self.lease.total if left == UNKNOWN else left
        return Meter(self.limited.allowed, max(0, self.room + nobodys), round(self._minutes.seconds_left, 3))

    def wants(self) -> list[RateWant]:
        self._turn()
        wants = [self._want(self.lease, self._minute, self.waiting)]
        if self._minutes.seconds_left < AHEAD_SECONDS and not self.is_quiet:
            wants.append(self._want(self._next, self._minute + 1, 0))
        return wants

    def renewed(self, want: RateWant, granted: RateGrant, sent: float) -> None:
        """Of a minute that is over here, nothing is heard."""
        self._turn()
        lease = {self._minute: self.lease, self._minute + 1: self._next}.get(want.minute)
        if lease is None or granted.total is None:
            return
        lease.total, lease.left, lease.told = granted.total, granted.left, sent
        lease.begins, lease.ends = self._minutes.begins(want.minute), self._minutes.ends(want.minute)

    def is_spare(self, amount: int) -> bool:
        """Whether a line of a batch may take it, beside live requests."""
        remaining, limit, live = self.meter.remaining, self.meter.limit, self.meter.limit // LIVE_SHARE
        if not amount or remaining >= limit or remaining - amount >= live:
            return True
        if limit - amount >= live:
            return False
        if self._large_since is None:
            self._large_since = self._minute
        is_their_turn = self._minute - self._large_since >= LARGE_MINUTES and remaining >= amount
        if is_their_turn:
            self._large_since = None
        return is_their_turn

    def refused(self, amount: int) -> Exception:
        seconds = min(math.ceil(MINUTE_SECONDS), max(1, math.ceil(self._minutes.seconds_left)))
        return over_limit(self.limited, amount, self.meter.remaining, seconds)

    def _want(self, lease: Lease, minute: int, waiting: int) -> RateWant:
        total, need = self._aim(lease, waiting)
        return RateWant(name=self.limited.name, minute=minute, turn=lease.turn, total=total, need=need)

    def _turn(self) -> None:
        """To the minute that it is now. What runs since an earlier one settles with that one's lease.

        Never back to the one before, as two answers may differ on it by milliseconds: its lease is used already.
        """
        present = self._minutes.present
        if present > self._minute or present < self._minute - 1:
            self.lease = self._next if present == self._minute + 1 else Lease()
            self._minute, self._next = present, Lease()


class Allowance(Taken[Asker]):
    """What one request takes, of all that limits who asks."""

    _is_counted = False

    def __init__(self, rates: "Rates", who: Asker, gives_way: bool) -> None:
        super().__init__(rates, who)
        self._rates, self._gives_way = rates, gives_way

    async def take(self, tokens: int) -> None:
        """Reserves more tokens, the first time for one request. RateLimited when this minute has not so much."""
        first, self._is_counted = not self._is_counted, True
        amounts: Amounts = {Unit.REQUESTS: int(first), Unit.TOKENS: tokens}
        try:
            async with self._rates.spare(self._who, amounts) if self._gives_way else nullcontext():
                await self.take_all(amounts)
        except RateLimited as error:
            error.rates = self.state
            raise

    def settle(self, tokens: int) -> None:
        """Ends it with what was counted; without a token it was no request. The rest is free again."""
        self.settle_all({Unit.REQUESTS: int(tokens > 0), Unit.TOKENS: tokens})

    @property
    def state(self) -> RateState | None:
        """How its limits stand; None: there are none."""
        return self._rates.state(self._who)


class Rates(Leasing[Asker]):
    """All limits that this process works under."""

    def __init__(self, verbs: Verbs, holder: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("rate limits", clock)
        self._verbs, self._holder = verbs, holder
        self._minutes = Minutes(clock)
        self._limited: dict[RateName, Limited] = {}

    def open(self, caller: Caller, resolved: Resolved, gives_way: bool = False) -> Allowance:
        """For a request of a model; one that `gives_way` leaves live requests their part."""
        who = asker(caller, resolved)
        self.expect(who)
        return Allowance(self, who, gives_way)

    @asynccontextmanager
    async def spare(self, who: Asker, amounts: Amounts) -> AsyncIterator[None]:
        """RateLimited where less than LIVE_SHARE of a minute would be left; what is larger, see LARGE_MINUTES.

        Of those that a limit is on, one takes after the other, as each counts on what is left.
        """
        limits = sorted(cast(Sequence[RateName], await self._limits(who)))  # in one order: nobody waits in a circle
        purses = [cast(_Purse, self._purse(limit)) for limit in limits]
        async with AsyncExitStack() as turns:
            for purse in purses:
                await turns.enter_async_context(purse.sparing)
            for purse in purses:
                if not purse.is_spare(amount := amounts[purse.unit]):
                    raise purse.refused(amount)
            yield

    def state(self, who: Asker) -> RateState | None:
        """By the tightest of the limits on who asks, as far as it is known here."""
        known = self._known.get(who)
        if known is None or not known.limits:
            return None
        purses = [cast(_Purse, self._purse(limit)) for limit in known.limits]
        meters = [(purse.unit, purse.meter) for purse in purses]
        return RateState(
            *(min((m for unit, m in meters if unit == each), key=_tightness, default=None) for each in Unit)
        )

    def _make(self, limit: Hashable) -> Purse:
        return _Purse(self._limited[cast(RateName, limit)], self._minutes, self._clock)

    async def _renew(self, purses: Sequence[Purse], asking: Sequence[Asker]) -> None:
        sent = self._clock()
        wants = [(purse, want) for purse in cast(Sequence[_Purse], purses) for want in purse.wants()]
        answer = await LEASES.run(self._verbs.renew, self._holder, asking, [want for _, want in wants])
        self._minutes.heard(answer.minute, answer.left_ms, sent)
        for (purse, want), granted in zip(wants, answer.grants, strict=True):
            purse.renewed(want, granted, sent)
        for who, limits in zip(asking, answer.limits, strict=True):
            for limited in limits:
                self._allow(limited)
            self._know(who, tuple(limited.name for limited in limits), sent)

    def _allow(self, limited: Limited) -> None:
        self._limited[limited.name] = limited
        if purse := self._purses.get(limited.name):
            cast(_Purse, purse).limited = limited


def _tightness(meter: Meter) -> float:
    return meter.remaining / max(1, meter.limit)
