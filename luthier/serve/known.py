"""What a process knows of the registry: whom a key lets in, what a name means, who may ask what.

It is true as long as the registry's epoch is the same, and that is asked in the background, for all together. Whoever
asked of late stays known so, and after a change is asked again beside the requests: no completion of his waits for the
registry. While that is silent, what was known holds for ALONE_SECONDS.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from luthier.errors import LuthierError, Unavailable
from luthier.platform.credits import ALONE_SECONDS
from luthier.serve.remember import Flights, beside
from luthier.serve.silence import NEW_PATIENCE_SECONDS, PATIENCE_SECONDS, Silence, away
from luthier.serve.threads import EPOCH, REGISTRY

log = logging.getLogger(__name__)

EACH_SECONDS = 0.5
"""Between two questions for the epoch."""
QUIET_SECONDS = 600.0
"""Who asked nothing for so long is forgotten."""
MAX_KNOWN = 10_000
"""Of each kind; of more those who asked last are known."""
AGAIN_SECONDS = 300.0
"""What is older is asked again in the background, though the epoch says that nothing changed."""
PORTION = 256
"""Asked again in one question."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Epoch:
    """The registry's, as it was a moment ago. Belongs to one event loop."""

    def __init__(self, ask: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        """`ask` may block: it runs in a thread."""
        self._ask, self.clock = ask, clock
        self.silence = Silence(clock)
        self.value: str | None = None
        self._heard = self._wanted = float("-inf")
        self._followers: list[Known[Any, Any]] = []
        self._flight: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        """What does not go well, and is logged."""

    def follow(self, follower: "Known[Any, Any]") -> None:
        self._followers.append(follower)

    def want(self, now: float) -> None:
        """Somebody asks: from here on it is heard until nobody did for long."""
        self._wanted = now
        if self._keeping is None or self._keeping.done():
            self._keeping = beside(self._keep())

    async def heard(self) -> str:
        """The last that was."""
        if self.value is None:
            await asyncio.shield(self._hear())
        assert self.value is not None
        return self.value

    def is_still(self, epoch: str | None, since: float) -> bool:
        """Whether it was this one, by an answer to a question from since then."""
        return self._heard > since and self.value == epoch

    async def holds(self, epoch: str | None, seconds: float) -> bool:
        """Whether it is this one still: as of so many seconds ago, or of ALONE_SECONDS while the registry is silent."""
        is_silent = self.silence.seconds >= PATIENCE_SECONDS
        oldest = ALONE_SECONDS if is_silent else seconds
        try:
            # Twice, as the first answer may be to a question that is older.
            for _ in range(2):
                if self._age >= oldest:
                    await self.silence.wait(self._hear(), PATIENCE_SECONDS)
        except Unavailable:
            if self._age >= ALONE_SECONDS:
                raise
        return self.value == epoch

    @property
    def _age(self) -> float:
        return self.clock() - self._heard

    def _hear(self) -> asyncio.Task[None]:
        """A question, or the one on its way."""
        if self._flight is None or self._flight.done():
            self._flight = beside(self._question())
        return self._flight

    async def _question(self) -> None:
        sent = self.clock()
        with self.silence.question():
            self.value = await EPOCH.run(self._ask)
        self._heard = sent

    async def _keep(self) -> None:
        while self.clock() - self._wanted < QUIET_SECONDS:
            flight = self._hear()
            await asyncio.wait([flight])
            self._tell("the registry's epoch is not heard", flight.exception())
            if self._catching_up is None or self._catching_up.done():
                self._catching_up = beside(self._catch_up())
            await asyncio.sleep(EACH_SECONDS)

    async def _catch_up(self) -> None:
        error: Exception | None = None
        for follower in self._followers:
            try:
                await follower.catch_up()
            except Exception as failed:  # whatever it is: who is not asked again now is when he comes
                error = failed
        self._tell("what is known is not asked again", error)

    def _tell(self, what: str, error: BaseException | None) -> None:
        """Once, until it goes well."""
        if error and what not in self._told:
            log.warning("%s: %s", what, error)
        (self._told.add if error else self._told.discard)(what)


@dataclass(eq=False, slots=True)
class _Known(Generic[Value]):
    value: Value
    epoch: str | None
    """Heard before it was asked: it may be newer, never older."""
    asked: float
    seen: float


class Known(Generic[Key, Value]):
    """One kind. A refusal is never known, and ends what was."""

    def __init__(
        self,
        epoch: Epoch,
        ask: Callable[[Key], Value],
        again: Callable[[Sequence[Key]], Sequence[Value | LuthierError]],
        seconds: float,
    ) -> None:
        """What was taken back is known for so many seconds at the most while the registry answers.

        `again` asks many at once. Both may block: they run in threads.
        """
        self._epoch, self._ask, self._again, self._seconds = epoch, ask, again, seconds
        self._clock = epoch.clock
        self._known: OrderedDict[Key, _Known[Value]] = OrderedDict()
        """Who asked last comes last."""
        self._flights = Flights(self._fetch, self._known)
        epoch.follow(self)

    def __len__(self) -> int:
        return len(self._known)

    async def get(self, key: Key) -> Value:
        """Unavailable while the registry is silent and this is not known."""
        now, epoch, known = self._clock(), self._epoch, self._known.get(key)
        epoch.want(now)
        if known:
            known.seen, since = now, now - self._seconds
            self._known.move_to_end(key)
            if known.asked > since or epoch.is_still(known.epoch, since):
                return known.value
            if await epoch.holds(known.epoch, self._seconds):
                return known.value
        left = NEW_PATIENCE_SECONDS - epoch.silence.seconds
        if left <= 0:
            raise away()
        try:
            async with asyncio.timeout(left):
                return await self._flights.ask(key)
        except TimeoutError as error:
            raise away() from error

    async def catch_up(self) -> None:
        """Asks again what may have changed, those first who asked last."""
        now, epoch = self._clock(), self._epoch.value
        while self._known and now - next(iter(self._known.values())).seen >= QUIET_SECONDS:
            self._known.popitem(last=False)
        late = (each for each in reversed(self._known.items()) if self._is_late(each[1], epoch, now))
        if not (asked := list(islice(late, PORTION))):
            return
        answers = await EPOCH.run(self._again, [key for key, _ in asked])
        for (key, known), answer in zip(asked, answers, strict=True):
            if self._known.get(key) is not known or isinstance(answer, Unavailable):
                continue  # a request has heard more meanwhile, or there is nothing to be heard
            if isinstance(answer, LuthierError):
                del self._known[key]
            else:
                known.value, known.epoch, known.asked = answer, epoch, now

    def _is_late(self, known: _Known[Value], epoch: str | None, now: float) -> bool:
        return known.epoch != epoch or now - known.asked >= AGAIN_SECONDS

    async def _fetch(self, key: Key) -> Value:
        now, epoch = self._clock(), await self._epoch.heard()
        value = await REGISTRY.run(self._ask, key)
        self._known[key] = _Known(value, epoch, now, self._clock())
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return value
