"""Credits in the hands of a process that answers: reserved before the work, settled after it, without the registry.

The process holds a lease of each limit that it works under (platform/credits.py). What it reserves and settles is
counted here, in memory. It is the only one to spend under its leases, and at every moment

    used + open <= total here <= total in the registry

as a lease is made smaller here first and there second, and larger there first. A lease that nobody renewed is not
spent under, some seconds before the registry takes it to be over. So no account is spent below zero, however many
processes work for it. Leases are topped up beside the requests; only who comes when one is empty waits.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luthier.errors import Unavailable
from luthier.platform.access import Caller
from luthier.platform.credits import LEASE_MS, Granted, Renewal, Want, refusal

log = logging.getLogger(__name__)

RENEW_SECONDS = 2.0
"""Between two renewals; a limit that is new, or gone, is known after so long."""
KNOWN_SECONDS = 5.0
"""What limits a caller is asked again when it is older; while the registry is away the last word holds."""
MARGIN_SECONDS = 5.0
"""So long before its end a lease is spent under no more."""
SURE_SECONDS = 0.25
"""Who is refused asks for the others of this time, too."""
QUIET_SECONDS = 600.0
"""Who asked nothing for so long pays for his next request with a call, and leaves nothing leased."""
RESERVE = 4
"""A quiet lease has room for so many of the largest requests of late."""
UNKNOWN = 2**62
"""What the registry has left, before it was asked."""


class Verbs(Protocol):
    def renew(self, holder: str, callers: Sequence[Caller], wants: Sequence[Want]) -> Renewal: ...


@dataclass(eq=False, slots=True)
class _Lease:
    id: str = field(default_factory=lambda: f"lease_{uuid.uuid4().hex}")
    turn: int = 0
    total: int = 0
    used: int = 0
    """Settled; its records are in the ledger or on their way."""
    open: int = 0
    """Reserved by what runs."""
    ends: float = float("-inf")


class _Purse:
    """One limit's lease, and who waits for more."""

    def __init__(self, account: str, scope: str, clock: Callable[[], float]) -> None:
        self.account, self.scope, self._clock = account, scope, clock
        self.lease = _Lease()
        self.flight: asyncio.Task[None] | None = None
        self.waiting = 0
        self._left, self._told = UNKNOWN, float("-inf")
        self._taken, self._pace, self._largest, self._taken_at = 0, 0, 0, clock()

    @property
    def room(self) -> int:
        lease = self.lease
        return lease.total - lease.used - lease.open if self._clock() < lease.ends else 0

    @property
    def is_quiet(self) -> bool:
        return not self.waiting and not self.lease.open and self._clock() - self._taken_at > QUIET_SECONDS

    @property
    def is_done(self) -> bool:
        """Nothing of it is in the hands of this process any more."""
        return self.is_quiet and self.lease.total <= self.lease.used

    @property
    def is_low(self) -> bool:
        return self.flight is None and self._left > 0 and self.room < self._keep() // 2

    def lacks(self, ucr: int) -> bool:
        """Neither here nor in the registry there is so much, as far as is known."""
        return self.room + self._left < ucr

    @property
    def is_sure(self) -> bool:
        return self._clock() - self._told < SURE_SECONDS

    def take(self, ucr: int) -> None:
        self.lease.open += ucr
        self._taken, self._taken_at = self._taken + ucr, self._clock()
        self._largest = max(self._largest, ucr)

    def breathe(self) -> None:
        """A period is over."""
        self._pace, self._taken = max(self._taken, self._pace // 2), 0
        self._largest = max(self._largest * 63 // 64, 1)

    def want(self) -> Want:
        """What is let go of is gone from here on, whether the registry hears it or not."""
        lease, keep = self.lease, self._keep()
        lease.turn += 1
        base = lease.used + lease.open + self.waiting
        if lease.total > base + 2 * keep:
            lease.total = base + keep
        total = max(lease.total, base + keep)
        return Want(
            id=lease.id, account=self.account, scope=self.scope, turn=lease.turn, total_ucr=total, need_ucr=base
        )

    def renewed(self, granted: Granted, sent: float) -> None:
        self._left, self._told = granted.left_ucr, sent
        if granted.total_ucr is None:  # it ended without us; what runs under it will be told as an overrun
            self.lease, self._left = _Lease(), UNKNOWN
            return
        self.lease.total = granted.total_ucr
        self.lease.ends = sent + LEASE_MS / 1000 - MARGIN_SECONDS

    def refused(self, ucr: int) -> Exception:
        error = refusal(self.scope, ucr, max(0, self.room) + self._left, self.lease.open)
        error.retry_after = 1 if self.lease.open else None  # what runs may turn out to cost less
        return error

    def _keep(self) -> int:
        """Of room, beside what is taken and waited for. Near the end of a limit others may need it more."""
        if self.is_quiet:
            return 0
        plenty = max(2 * self._pace, 2 * self._taken, RESERVE * max(self._largest, self.waiting))
        return plenty if self._left > plenty else max(self._pace, self._taken)


class Reservation:
    """Of one request, under all that limits its caller."""

    def __init__(self, leases: "Leases", caller: Caller) -> None:
        self._leases, self._caller = leases, caller
        self._parts: dict[_Purse, dict[_Lease, int]] = {}

    async def take(self, ucr: int) -> None:
        """Reserves more. PaymentRequired when there is not so much; Unavailable when nobody can tell."""
        for purse in await self._leases.take(self._caller, ucr):
            parts = self._parts.setdefault(purse, {})
            parts[purse.lease] = parts.get(purse.lease, 0) + ucr

    def settle(self, ucr: int) -> tuple[str, ...]:
        """Ends it with what the work cost; the rest is free again. The leases that pay."""
        paying = []
        for parts in self._parts.values():
            owed = ucr
            for lease, reserved in parts.items():
                lease.open -= reserved
                paid = min(owed, reserved)
                lease.used, owed = lease.used + paid, owed - paid
                paying += [lease.id] if paid else []
        self._parts = {}
        return tuple(paying)


@dataclass(slots=True)
class _Known:
    """What limits a caller."""

    scopes: tuple[str, ...]
    asked: float
    seen: float


class Leases:
    """All of a process. Belongs to one event loop."""

    def __init__(self, verbs: Verbs, holder: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._verbs, self._holder, self._clock = verbs, holder, clock
        self._known: dict[Caller, _Known] = {}
        self._looks: dict[Caller, asyncio.Task[None]] = {}
        self._purses: dict[tuple[str, str], _Purse] = {}
        self._is_away = False

    def open(self, caller: Caller) -> Reservation:
        """For a request that has come; who is new is looked up meanwhile."""
        if caller not in self._known:
            self._look(caller)
        return Reservation(self, caller)

    async def take(self, caller: Caller, ucr: int) -> list[_Purse]:
        """Those that it was taken from: all that limit the caller, or none."""
        purses = [self._purse(caller.account, scope) for scope in await self._scopes(caller)]
        while short := next((purse for purse in purses if purse.room < ucr), None):
            await self._fill(short, ucr)
        for purse in purses:
            purse.take(ucr)
            if purse.is_low:
                self._start([purse])
        return purses

    async def keep_renewed(self) -> None:
        """As long as the process runs."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self.renew_all()
                self._is_away = False
            except Exception as error:  # whatever it is, leases end in time; a loop that ended would end them all
                if not self._is_away:
                    log.warning("credits are not renewed: %s", error)
                self._is_away = True

    async def renew_all(self) -> None:
        """Leases as they are used, and what limits those who asked of late, in one call."""
        now = self._clock()
        self._known = {caller: known for caller, known in self._known.items() if now - known.seen < QUIET_SECONDS}
        purses = [purse for purse in self._purses.values() if purse.flight is None]
        for purse in purses:
            purse.breathe()
        if purses or self._known:
            await asyncio.shield(self._start(purses, list(self._known)))
        self._purses = {name: purse for name, purse in self._purses.items() if not purse.is_done}

    # what limits a caller

    async def _scopes(self, caller: Caller) -> tuple[str, ...]:
        known, now = self._known.get(caller), self._clock()
        if known is None or now - known.asked > KNOWN_SECONDS:
            try:
                await asyncio.shield(self._look(caller))
            except Unavailable:
                if known is None:
                    raise
            known = self._known[caller]
        known.seen = now
        return known.scopes

    def _look(self, caller: Caller) -> asyncio.Task[None]:
        if caller not in self._looks:
            look = self._looks[caller] = asyncio.create_task(self._renew([], [caller]))
            look.add_done_callback(lambda done: self._landed(done, lambda: self._looks.pop(caller)))
        return self._looks[caller]

    # leases

    def _purse(self, account: str, scope: str) -> _Purse:
        name = account, scope
        if name not in self._purses:
            self._purses[name] = _Purse(account, scope, self._clock)
        return self._purses[name]

    async def _fill(self, purse: _Purse, ucr: int) -> None:
        """Until there may be enough. Refused when the registry, asked after this call began, has not so much."""
        if purse.is_sure and purse.flight is None and purse.lacks(ucr):
            raise purse.refused(ucr)
        purse.waiting += ucr
        try:
            if purse.flight:  # it was sent before this call
                await asyncio.shield(purse.flight)
                if purse.room >= ucr:
                    return
            await asyncio.shield(purse.flight or self._start([purse]))
        finally:
            purse.waiting -= ucr
        if purse.room < ucr and purse.lacks(ucr):
            raise purse.refused(ucr)

    def _start(self, purses: list[_Purse], callers: Sequence[Caller] = ()) -> asyncio.Task[None]:
        """One flight at a time for each purse: so its asks reach the registry in their order, or are told apart."""
        flight = asyncio.create_task(self._renew(purses, callers))
        for purse in purses:
            purse.flight = flight

        def land() -> None:
            for purse in purses:
                purse.flight = None

        flight.add_done_callback(lambda done: self._landed(done, land))
        return flight

    async def _renew(self, purses: Sequence[_Purse], callers: Sequence[Caller]) -> None:
        sent, wants = self._clock(), [purse.want() for purse in purses]
        answer = await asyncio.to_thread(self._verbs.renew, self._holder, callers, wants)
        for purse, granted in zip(purses, answer.leases, strict=True):
            purse.renewed(granted, sent)
        for caller, scopes in zip(callers, answer.limits, strict=True):
            seen = self._known[caller].seen if caller in self._known else sent
            self._known[caller] = _Known(scopes, sent, seen)

    @staticmethod
    def _landed(flight: asyncio.Task[None], then: Callable[[], object]) -> None:
        then()
        if not flight.cancelled():
            flight.exception()  # looked at: nobody may be waiting for it
