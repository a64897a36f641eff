"""Rate limits under anything in any order: replicas that ask, settle, renew, die, lose answers; time and limits move.

In each minute of the registry's clock what was let in by all replicas together stays within the limit.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from luthier.errors import RateLimited, Unavailable
from luthier.platform.access import Caller
from luthier.platform.models import Resolved
from luthier.platform.rates import MINUTE_MS, Asker, RateLimit, RateRenewal, RateWant, Unit
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.metering import leasing, rates
from luthier.serve.metering.rates import Allowance, Rates
from tests.factories import ADMIN, add_admin
from tests.fakes import Launcher
from tests.machines import Bench, Length, Machine, Watched, to_its_end
from tests.waiting import SECONDS

LENGTH, WHERE_SLOW = Length(40, 100, at_least=1_000), Length(2, 60, at_least=50)
START_MS = 1_000 * MINUTE_MS
FIRST = {Unit.REQUESTS: 7, Unit.TOKENS: 100}
MODEL = Resolved(name="m", base_model="m")


@dataclass
class Open:
    """A request that runs, and where it was counted."""

    allowance: Allowance
    minute: int
    tokens: int


class Line:
    """The way to the registry: it takes a while there and back, loses calls and answers, and does some twice."""

    def __init__(self, machine: "RatesMachine") -> None:
        self._machine = machine
        self.fault = "none"

    def renew(self, holder: str, asking: Sequence[Asker], wants: Sequence[RateWant]) -> RateRenewal:
        machine = self._machine
        machine.now += machine.there
        if self.fault == "cut":
            raise Unavailable("away")
        answer = machine.registry.rates.renew(holder, asking, wants)
        if self.fault == "twice":
            answer = machine.registry.rates.renew(holder, asking, wants)
        machine.now += machine.back
        if self.fault == "lost":
            raise Unavailable("lost")
        return answer


class Replica:
    def __init__(self, machine: "RatesMachine", name: str) -> None:
        self.line = Line(machine)
        ahead = 1000.0 * machine.num  # its clock began at some other time
        self.rates = Rates(self.line, name, lambda: machine.now + ahead)


class RatesMachine(Machine):
    num_let_in: ClassVar[int] = 0
    num_refused: ClassVar[int] = 0

    def __init__(self, store: Watched) -> None:
        super().__init__(store)
        self.now, self.num = 0.0, 0
        self.there = self.back = 0.001
        with mock.patch("luthier.platform.registry.registry.Store", return_value=store):
            self.registry = Registry(Settings(database_url="sqlite://"), Launcher(), self.clock)
        add_admin(self.registry)
        self.loop = asyncio.new_event_loop()
        self.patches = [
            mock.patch.object(rates, "LEASES", SimpleNamespace(run=self.inline)),
            mock.patch.object(leasing, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": self.sleep})),
        ]
        for patch in self.patches:
            patch.start()
        self.replicas = [self.new_replica() for _ in range(3)]
        self.running: list[Open] = []
        self.allowed = dict(FIRST)
        self.most: dict[tuple[int, Unit], int] = {}
        """What a minute may have had: the largest limit while it, or the one before it, went on."""
        self.seen: Counter[tuple[int, Unit]] = Counter()
        self.set_limit()

    @classmethod
    def is_enough(cls) -> bool:
        return min(cls.num_let_in, cls.num_refused) >= cls.num_steps // 100

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()
        self.loop.close()

    def clock(self) -> int:
        return START_MS + int(self.now * 1000)

    async def inline(self, call: Any, *args: Any) -> Any:
        return call(*args)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def new_replica(self) -> Replica:
        self.num += 1
        return Replica(self, f"replica_{self.num}")

    def run(self, work: Awaitable[Any]) -> Any:
        return to_its_end(self.loop, work)

    @property
    def minute(self) -> int:
        return self.clock() // MINUTE_MS

    def set_limit(self) -> None:
        self.registry.rates.set(
            ADMIN, RateLimit(model=MODEL.name, **{unit.value: n for unit, n in self.allowed.items()})
        )

    def cap(self, minute: int, unit: Unit) -> int:
        return self.most.get((minute, unit), self.allowed[unit])

    # what happens

    @rule(number=st.integers(0, 2), key=st.sampled_from(["key_1", None]), tokens=st.integers(1, 40))
    def ask(self, number: int, key: str | None, tokens: int) -> None:
        self.ask_one(number, key, tokens)

    @rule(key=st.sampled_from(["key_1", None]), tokens=st.integers(1, 30), num=st.integers(2, 9))
    def ask_many(self, key: str | None, tokens: int, num: int) -> None:
        """Of all replicas in turn."""
        for number in range(num):
            self.ask_one(number % 3, key, tokens)

    def ask_one(self, number: int, key: str | None, tokens: int) -> None:
        caller = Caller(account="main", user="u", role="r", key=key)
        try:
            self.run(self.taken(self.replicas[number], caller, tokens))
        except Unavailable:
            return
        except RateLimited as error:
            RatesMachine.num_refused += 1
            self.check_when(error)
            return
        RatesMachine.num_let_in += 1

    def check_when(self, error: RateLimited) -> None:
        """Then it is another minute; what never fits has no such time."""
        if error.retry_after is not None:
            assert 1 <= error.retry_after <= 60
            assert (self.clock() + error.retry_after * 1000) // MINUTE_MS > self.minute

    async def taken(self, replica: Replica, caller: Caller, tokens: int) -> None:
        allowance = replica.rates.open(caller, MODEL)
        await allowance.take(tokens)
        minute = self.minute  # at this moment it is let in
        self.seen[minute, Unit.REQUESTS] += 1
        self.seen[minute, Unit.TOKENS] += tokens
        self.running.append(Open(allowance, minute, tokens))

    @precondition(lambda self: self.running)
    @rule(number=st.integers(0, 5), share=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    def settle(self, number: int, share: float) -> None:
        done = self.running.pop(number % len(self.running))
        used = int(done.tokens * share)
        done.allowance.settle(used)
        self.seen[done.minute, Unit.TOKENS] -= done.tokens - used
        self.seen[done.minute, Unit.REQUESTS] -= used == 0

    @rule(number=st.integers(0, 2), fault=st.sampled_from(["none", "none", "none", "cut", "lost", "twice"]))
    def renew(self, number: int, fault: str) -> None:
        replica = self.replicas[number]
        replica.line.fault = fault
        self.run(asyncio.wait_for(self.tried(replica), SECONDS))

    async def tried(self, replica: Replica) -> None:
        with suppress(Unavailable):
            await replica.rates.renew_all()

    @rule(number=st.integers(0, 2))
    def die(self, number: int) -> None:
        """What it held is nobody's until the minute's end; what ran there is used."""
        self.replicas[number] = self.new_replica()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.5, 2.0, 2.0, 2.0, 17.0, 58.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(before=st.sampled_from([-0.03, -0.009, 0.0, 0.009, 0.015, 3.0]))
    def to_a_minutes_end(self, before: float) -> None:
        end = (self.minute + 1) * MINUTE_MS / 1000 - START_MS / 1000
        self.now = max(self.now, end - before)

    @rule(there=st.sampled_from([0.0, 0.001, 0.05, 0.4]), back=st.sampled_from([0.0, 0.001, 0.05, 0.4]))
    def the_way_takes(self, there: float, back: float) -> None:
        self.there, self.back = there, back

    @rule(unit=st.sampled_from(list(Unit)), factor=st.sampled_from([0.5, 1.0, 2.0]))
    def change_limit(self, unit: Unit, factor: float) -> None:
        before = self.allowed[unit]
        self.allowed[unit] = int(FIRST[unit] * factor)
        for minute, _ in list(self.seen):
            self.most.setdefault((minute, unit), before)
        for minute in (self.minute, self.minute + 1):
            self.most[minute, unit] = max(self.most.get((minute, unit), before), self.allowed[unit])
        self.set_limit()

    # what must hold

    @invariant()
    def no_minute_has_more_than_it_may(self) -> None:
        for (minute, unit), num in self.seen.items():
            assert num <= self.cap(minute, unit), f"{num} {unit} in minute {minute}"


def test_rates(bench: Bench) -> None:
    RatesMachine.num_let_in = RatesMachine.num_refused = 0
    bench.run(RatesMachine, LENGTH, WHERE_SLOW)
