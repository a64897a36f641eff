"""Whose adapters an engine's steps have slots for: few at once, each for its turn. Knows no engine.

Left to itself vLLM lets in whoever has an adapter that runs already, so that others wait until nobody asks for it.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

PATIENCE_SECONDS = 0.25
"""Who waits longer for a slot closes the one that was taken first to all who come after."""
BATCH_PATIENCE_SECONDS = 10.0
"""Of those at lower priority."""


@dataclass(eq=False)
class Slot:
    num_running: int = 0
    is_ending: bool = False
    """Its place is given away: nobody comes in any more."""


@dataclass(order=True)
class Waiting:
    priority: int
    since: float
    number: int
    may: asyncio.Future[None] = field(compare=False)
    is_in: bool = field(default=False, compare=False)

    def is_overdue(self, now: float) -> bool:
        return now - self.since > (BATCH_PATIENCE_SECONDS if self.priority else PATIENCE_SECONDS)


class Turns:
    """Belongs to one event loop.

    As many adapters run as there are slots. While others are overdue, so many slots, those taken first, are closed: no
    more requests begin there. A closed slot goes to the next adapter when its last request but one has ended: the
    engine then has something to begin in the step in which the last one ends.
    """

    def __init__(self, num_slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_slots, self._clock = num_slots, clock
        self._slots: dict[int, Slot] = {}
        """By adapter; those taken first come first."""
        self._waiting: dict[int, list[Waiting]] = {}
        """By adapter, as heaps."""
        self._numbers = itertools.count()

    async def take(self, adapter: int, priority: int, since: float) -> Callable[[], None]:
        """Returns when a request of the adapter may go to the engine; to be called once, when that is done with it.

        `since`, by the clock, it waits.
        """
        one = Waiting(priority, since, next(self._numbers), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting.setdefault(adapter, []), one)
        self._go_on()
        try:
            await one.may
        except asyncio.CancelledError:
            self._leave(adapter, one)
            raise
        return partial(self._give_back, adapter)

    def _give_back(self, adapter: int) -> None:
        slot = self._slots[adapter]
        slot.num_running -= 1
        if not slot.num_running:
            del self._slots[adapter]
        if self._waiting:
            self._go_on()

    def _leave(self, adapter: int, one: Waiting) -> None:
        if one.is_in:
            self._give_back(adapter)
            return
        heap = self._waiting[adapter]
        heap.remove(one)
        heapq.heapify(heap)
        if not heap:
            del self._waiting[adapter]
        self._go_on()

    def _go_on(self) -> None:
        """Lets in all who may: by priority, then the longest waiting first."""
        now, is_full = self._clock(), False
        overdue = {adapter for adapter, heap in self._waiting.items() if heap[0].is_overdue(now)} - self._open()
        for adapter in sorted(self._waiting, key=lambda each: self._waiting[each][0]):
            slot = self._slots.get(adapter)
            if slot and slot not in self._closed(len(overdue)):
                self._let_in(adapter, slot)
            elif (slot is None or slot.is_ending) and not is_full:
                if is_full := not self._make_room(len(overdue)):
                    continue
                overdue.discard(adapter)
                self._let_in(adapter, self._taken(adapter))

    def _taken(self, adapter: int) -> Slot:
        """Anew, also where a last request of the adapter still runs."""
        slot = self._slots[adapter] = self._slots.pop(adapter, Slot())
        slot.is_ending = False
        return slot

    def _open(self) -> set[int]:
        return {adapter for adapter, slot in self._slots.items() if not slot.is_ending}

    def _let_in(self, adapter: int, slot: Slot) -> None:
        for one in self._waiting.pop(adapter):
            one.is_in = True
            slot.num_running += 1
            if not one.may.done():  # one that was cancelled gives back in a moment
                one.may.set_result(None)

    def _make_room(self, num_overdue: int) -> bool:
        """A free slot, or a closed one with its last request alone: of these as many as there are slots."""
        if len(self._open()) < self._num_slots:
            return True
        if len(self._slots) == 2 * self._num_slots:
            return False
        for slot in self._closed(num_overdue):
            if slot.num_running == 1 and not slot.is_ending:
                slot.is_ending = True
                return True
        return False

    def _closed(self, num_overdue: int) -> list[Slot]:
        ending = [slot for slot in self._slots.values() if slot.is_ending]
        return ending + [slot for slot in self._slots.values() if not slot.is_ending][:num_overdue]
