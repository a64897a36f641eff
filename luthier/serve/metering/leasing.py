"""What the registry sets aside for a process that answers: taken in memory, asked for beside the requests.

A purse is one limit's lease in the hands of this process, which is the only one to spend under it: at every moment
used + open <= total here <= total in the registry, as a lease is made smaller here first and there second, and larger
there first. Credits (leases.py) and rates (rates.py) differ in what a lease is of, and in when it ends.
"""

import asyncio
import logging
import math
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import nlargest
from typing import ClassVar, Generic, TypeVar

from luthier.errors import Unavailable
from luthier.serve.remember import beside
from luthier.serve.silence import NEW_PATIENCE_SECONDS, PATIENCE_SECONDS, Silence

log = logging.getLogger(__name__)

RENEW_SECONDS = 2.0
"""Between two renewals; a limit that is new, or gone, is known after so long."""
KNOWN_SECONDS = 5.0
"""What limits a caller is asked again when it is older; while the registry is away the last word holds."""
SURE_SECONDS = 0.25
"""Who is refused asks for the others of this time, too."""
QUIET_SECONDS = 600.0
"""Who asked nothing for so long pays for his next request with a call, and leaves nothing leased."""
MAX_KNOWN = 10_000
"""Of more those who asked last."""
RESERVE = 4
"""A quiet lease has room for so many of the largest requests of late."""
FADES = 0.9955
"""A request's size in that, with each renewal: after QUIET_SECONDS there is room for one still."""
UNKNOWN = 2**62
"""What the registry has left, before it was asked."""

Amounts = Mapping[str, int]
"""By the purse's unit."""
Who = TypeVar("Who", bound=Hashable)


@dataclass(eq=False, slots=True)
class Lease:
    id: str = field(default_factory=lambda: f"lease_{uuid.uuid4().hex}")
    turn: int = 0
    total: int = 0
    used: int = 0
    """Settled."""
    open: int = 0
    """Reserved by what runs."""
    is_short: bool = False
    """Something cost more than was reserved of it."""
    begins: float = float("-inf")
    ends: float = float("-inf")
    left: int = UNKNOWN
    """What the registry had beside it, when it told."""
    told: float = float("-inf")


class Purse(ABC):
    """One limit's lease, and who waits for more."""

    PERIODS: ClassVar[int] = 2
    """Between two renewals: there is room for so many at the pace of the last."""

    def __init__(self, unit: str, clock: Callable[[], float]) -> None:
        self.unit, self._clock = unit, clock
        self.lease = Lease()
        self.flight: asyncio.Task[None] | None = None
        self.waiting = 0
        self._taken, self._pace, self._largest, self._taken_at = 0, 0, 0.0, clock()

    @abstractmethod
    def refused(self, amount: int) -> Exception:
        """Neither here nor in the registry is so much."""

    @property
    def room(self) -> int:
        lease = self.lease
        return lease.total - lease.used - lease.open if lease.begins <= self._clock() < lease.ends else 0

    @property
    def pause(self) -> float:
        """Seconds until anything can be spent, whoever is asked."""
        return 0.0

    @property
    def is_quiet(self) -> bool:
        return not self.waiting and not self.lease.open and self._clock() - self._taken_at > QUIET_SECONDS

    @property
    def is_done(self) -> bool:
        """Nothing of it is in the hands of this process any more."""
        return self.is_quiet and self.lease.total <= self.lease.used

    @property
    def is_low(self) -> bool:
        return self.flight is None and self.lease.left > 0 and self.room < self._keep(self.lease) // 2

    @property
    def is_sure(self) -> bool:
        return self._clock() - self.lease.told < SURE_SECONDS

    def lacks(self, amount: int) -> bool:
        """Neither here nor in the registry there is so much, as far as is known."""
        return self.room + self.lease.left < amount

    def take(self, amount: int) -> Lease:
        """The one that it was taken from, as another may follow at any moment."""
        self.lease.open += amount
        self._taken, self._taken_at = self._taken + amount, self._clock()
        self._largest = max(self._largest, amount)
        return self.lease

    def breathe(self) -> None:
        """A period is over."""
        self._pace, self._taken = max(self._taken, self._pace // 2), 0
        self._largest = max(self._largest * FADES, 1)

    def _aim(self, lease: Lease, waiting: int) -> tuple[int, int]:
        """What a lease is to be, and what of it somebody waits for.

        What is let go of is gone from here on, whether the registry hears it or not.
        """
        keep = self._keep(lease)
        lease.turn += 1
        base = lease.used + lease.open + waiting
        if lease.total > base + 2 * keep:
            lease.total = base + keep
        return max(lease.total, base + keep), base

    def _keep(self, lease: Lease) -> int:
        """Of room, beside what is taken and waited for. Near the end of a limit others may need it more."""
        if self.is_quiet:
            return 0
        pace, largest = max(self._pace, self._taken), max(self._largest, self.waiting)
        plenty = max(self.PERIODS * pace, math.ceil(RESERVE * largest))
        return plenty if lease.left > plenty else pace


class Taken(Generic[Who]):
    """What one request has taken, of all that limits who asks."""

    def __init__(self, leasing: "Leasing[Who]", who: Who) -> None:
        self._leasing, self._who = leasing, who
        self._parts: dict[Purse, dict[Lease, int]] = {}

    async def take_all(self, amounts: Amounts) -> None:
        """More, of each by its unit, or nothing of any."""
        for purse, lease in await self._leasing.take(self._who, amounts):
            parts = self._parts.setdefault(purse, {})
            parts[lease] = parts.get(lease, 0) + amounts[purse.unit]

    def settle_all(self, amounts: Amounts) -> tuple[str, ...]:
        """Ends it with what was used of each; the rest is free again. The leases that pay."""
        paying = []
        for purse, parts in self._parts.items():
            owed = amounts[purse.unit]
            for lease, reserved in parts.items():
                lease.open -= reserved
                paid = min(owed, reserved)
                lease.used, owed = lease.used + paid, owed - paid
                paying += [lease.id] if paid else []
            for lease in parts if owed else ():
                lease.is_short = True
        self._parts = {}
        return tuple(paying)


@dataclass(slots=True)
class Known:
    """What limits somebody."""

    limits: tuple[Hashable, ...]
    asked: float
    seen: float


class Leasing(ABC, Generic[Who]):
    """All purses of a process. Belongs to one event loop."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._known: dict[Who, Known] = {}
        self._looks: dict[Who, asyncio.Task[None]] = {}
        self._purses: dict[Hashable, Purse] = {}
        self._silence = Silence(clock)
        self._is_away = False

    @abstractmethod
    def _make(self, limit: Hashable) -> Purse: ...

    @abstractmethod
    async def _renew(self, purses: Sequence[Purse], asking: Sequence[Who]) -> None:
        """Tells the purses what they have, and by `_know` what limits those who ask."""

    def expect(self, who: Who) -> None:
        """A request has come; who is new is looked up meanwhile."""
        if who not in self._known:
            self._look(who)

    async def take(self, who: Who, amounts: Amounts) -> list[tuple[Purse, Lease]]:
        """Those that it was taken from: all that limit who asks, or none."""
        limits = await self._limits(who)
        if not limits:
            return []
        purses = [self._purse(limit) for limit in limits]
        while short := [purse for purse in purses if purse.room < amounts[purse.unit]]:
            await asyncio.gather(*(self._fill(purse, amounts[purse.unit]) for purse in short))
        taken = [(purse, purse.take(amounts[purse.unit])) for purse in purses]
        if low := [purse for purse in purses if purse.is_low]:
            self._start(low)
        return taken

    async def keep_renewed(self) -> None:
        """As long as the process runs."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self.renew_all()
                self._is_away = False
            except Exception as error:  # whatever it is, leases end in time; a loop that ended would end them all
                if not self._is_away:
                    log.warning("%s are not renewed: %s", self._what, error)
                self._is_away = True

    async def renew_all(self) -> None:
        """Leases as they are used, and what limits those who asked of late, in one call."""
        now = self._clock()
        lately = ((who, known) for who, known in self._known.items() if now - known.seen < QUIET_SECONDS)
        self._known = dict(nlargest(MAX_KNOWN, lately, key=lambda each: each[1].seen))
        purses = [purse for purse in self._purses.values() if purse.flight is None]
        for purse in purses:
            purse.breathe()
        if purses or self._known:
            await asyncio.shield(self._start(purses, list(self._known)))
        self._purses = {name: purse for name, purse in self._purses.items() if not purse.is_done}

    # what limits somebody

    async def _limits(self, who: Who) -> tuple[Hashable, ...]:
        known, now = self._known.get(who), self._clock()
        if known is None:
            await self._silence.wait(self._look(who), NEW_PATIENCE_SECONDS)
        elif now - known.asked > KNOWN_SECONDS and self._silence.seconds < PATIENCE_SECONDS:
            with suppress(Unavailable):
                await self._silence.wait(self._look(who), PATIENCE_SECONDS)
        known = self._known.get(who) or known
        assert known
        known.seen = now
        return known.limits

    def _know(self, who: Who, limits: tuple[Hashable, ...], asked: float) -> None:
        seen = self._known[who].seen if who in self._known else asked
        self._known[who] = Known(limits, asked, seen)

    def _look(self, who: Who) -> asyncio.Task[None]:
        if who not in self._looks:
            look = self._looks[who] = beside(self._ask([], [who]))
            look.add_done_callback(lambda _: self._looks.pop(who))
        return self._looks[who]

    # leases

    def _purse(self, limit: Hashable) -> Purse:
        if limit not in self._purses:
            self._purses[limit] = self._make(limit)
        return self._purses[limit]

    async def _fill(self, purse: Purse, amount: int) -> None:
        """Until there may be enough. Refused when the registry, asked after this call began, has not so much."""
        if pause := purse.pause:
            await asyncio.sleep(pause)
            return
        if purse.is_sure and purse.flight is None and purse.lacks(amount):
            raise purse.refused(amount)
        purse.waiting += amount
        try:
            if purse.flight:  # it was sent before this call
                await self._silence.wait(purse.flight, PATIENCE_SECONDS)
                if purse.room >= amount:
                    return
            await self._silence.wait(purse.flight or self._start([purse]), PATIENCE_SECONDS)
        finally:
            purse.waiting -= amount
        if purse.room < amount and purse.lacks(amount):
            raise purse.refused(amount)

    def _start(self, purses: list[Purse], asking: Sequence[Who] = ()) -> asyncio.Task[None]:
        """One flight at a time for each purse: so its asks reach the registry in their order, or are told apart."""
        flight = beside(self._ask(purses, asking))
        for purse in purses:
            purse.flight = flight

        def land(_: asyncio.Task[None]) -> None:
            for purse in purses:
                purse.flight = None

        flight.add_done_callback(land)
        return flight

    async def _ask(self, purses: Sequence[Purse], asking: Sequence[Who]) -> None:
        with self._silence.question():
            await self._renew(purses, asking)
