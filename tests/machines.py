"""What the state machines share: how long they run, and that they did. What fails is printed with how to repeat it."""

from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant


class Machine(RuleBasedStateMachine):
    steps: ClassVar[int] = 0
    """Of all runs."""

    @invariant()
    def count(self) -> None:
        type(self).steps += 1


def at_length(num_examples: int, num_steps: int) -> settings:
    """So many runs of so many steps, however long they take."""
    return settings(
        max_examples=num_examples,
        stateful_step_count=num_steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
