"""What the state machines share: the store that they run over, how long, and that they did; their seeds."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import sqlalchemy as sa
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test

from luthier.platform.store import Store
from tests.forging import empty

CHANGES = re.compile(r"\s*(WITH\b.*\b)?(INSERT|UPDATE|DELETE)\b", re.IGNORECASE | re.DOTALL)
MOST_RUNS = 50
Answer = TypeVar("Answer")


class Length(NamedTuple):
    """So many runs of so many steps, however long they take; more of them where too many ended before."""

    num_examples: int
    num_steps: int
    at_least: int
    """Steps of all runs."""


class Watched(Store):
    """Counts what changed something: where nothing has, nothing need be looked at again."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.num_changes = 0
        sa.event.listen(self.engine, "after_cursor_execute", self._note)

    def _note(self, _connection: Any, cursor: Any, statement: str, *_more: Any) -> None:
        if cursor.rowcount and CHANGES.match(statement):
            self.num_changes += 1


class Machine(RuleBasedStateMachine):
    num_steps: ClassVar[int] = 0
    """Of all runs."""

    @classmethod
    def is_enough(cls) -> bool:
        """What must have happened for the runs to say something has."""
        return True

    def __init__(self, store: Watched) -> None:
        super().__init__()
        self.store = store
        self._seen: tuple[int, object] = (-1, None)
        empty(store)

    @invariant()
    def count(self) -> None:
        type(self).num_steps += 1

    def looked_up(self, look: Callable[[], Any]) -> Any:
        """What `look` finds; what it found before, where nothing has changed since."""
        if self._seen[0] != self.store.num_changes:
            self._seen = self.store.num_changes, look()
        return self._seen[1]


class Bench:
    """Runs machines over one store, from a seed: until they had their steps, and these were enough."""

    def __init__(self, store: Watched, number: int, is_slow: bool) -> None:
        """`is_slow`: each statement goes over a socket."""
        self._store, self._number, self._is_slow = store, number, is_slow

    def run(self, machine: type[Machine], length: Length, where_slow: Length) -> None:
        num_examples, num_steps, at_least = where_slow if self._is_slow else length
        machine.num_steps = 0
        for number in range(self._number, self._number + MOST_RUNS):
            run_state_machine_as_test(
                seed(number)(partial(machine, self._store)),
                settings=settings(
                    max_examples=num_examples,
                    stateful_step_count=num_steps,
                    print_blob=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
            if machine.num_steps >= at_least and machine.is_enough():
                return
        raise AssertionError(f"{MOST_RUNS} runs of {machine.__name__} were not enough: {vars(machine)}")


def to_its_end(loop: asyncio.AbstractEventLoop, work: Awaitable[Answer]) -> Answer:
    """With all that it has begun."""

    async def settled() -> Answer:
        try:
            return await work
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)

    return loop.run_until_complete(settled())


@lru_cache(maxsize=1)
def memory() -> Watched:
    """One for all, as its migrations take longer than a run."""
    return Watched("sqlite://")
