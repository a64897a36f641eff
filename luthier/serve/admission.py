"""Who gets in: as many as run at once, and a bounded number that wait. Others are told when to come again."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from luthier.errors import Overloaded

SOONEST_SECONDS, LATEST_SECONDS = 1, 30
"""Between them is every Retry-After."""
PACE_SECONDS = 30.0
"""So far back goes the pace at which places come free."""


class Admission:
    """Places of one engine, one for each sequence, or of what else is shared. Belongs to one event loop.

    An account may hold all that run at once, or half of the places, of what the others leave. So one alone can never
    fill the queue, and whoever holds none gets in as long as there is any.
    """

    def __init__(
        self,
        num_running: int,
        num_queued: int,
        clock: Callable[[], float] = time.monotonic,
        words: str = "The engine is busy: {} answers are generated or wait",
    ) -> None:
        """`words` tell who is refused how many are inside."""
        self._num_running, self._num_places, self._clock = num_running, num_running + num_queued, clock
        self._words = words
        self._held: Counter[str] = Counter()
        self._freed: deque[tuple[float, int]] = deque()
        self._busy_since = 0.0
        self.num_refused = 0

    @property
    def num_taken(self) -> int:
        return self._held.total()

    @property
    def most(self) -> int:
        """What an account can ever have. Who needs more is content with it, and would else wait for ever."""
        return self._most(0)

    @contextmanager
    def place(self, account: str, num: int) -> Iterator[None]:
        """Holds that many while the block runs. Overloaded when the account cannot have them now."""
        num = min(num, self.most)
        self._take(account, num)
        try:
            yield
        finally:
            self._give_back(account, num)

    def _take(self, account: str, num: int) -> None:
        held, taken = self._held[account], self.num_taken
        if held + num > self._most(taken - held):
            self.num_refused += 1
            seconds = self._retry_after()
            raise Overloaded(
                f"{self._words.format(taken)}, {held} of them for your account. Try again in {seconds} s.",
                retry_after=seconds,
            )
        if not taken:
            self._busy_since = self._clock()
        self._held[account] += num

    def _give_back(self, account: str, num: int) -> None:
        self._held[account] -= num
        if not self._held[account]:
            del self._held[account]
        self._freed.append((self._clock(), num))
        self._forget()

    def _most(self, others: int) -> int:
        """What an account may hold while all others hold so many."""
        return max(self._num_running - others, math.ceil((self._num_places - others) / 2))

    def _retry_after(self) -> int:
        """Seconds in which half of those that wait have been served, at the pace of the last moments.

        Where none has been served since the crowd came, the next is thought to be about to be.
        """
        self._forget()
        num_ahead = max(1, (self.num_taken - self._num_running) // 2)
        num_freed = max(1, sum(num for _, num in self._freed))
        seconds = min(PACE_SECONDS, self._clock() - self._busy_since) * num_ahead / num_freed
        return max(SOONEST_SECONDS, min(LATEST_SECONDS, math.ceil(seconds)))

    def _forget(self) -> None:
        since = max(self._busy_since, self._clock() - PACE_SECONDS)
        while self._freed and self._freed[0][0] < since:
            self._freed.popleft()
