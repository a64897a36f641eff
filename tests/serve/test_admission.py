"""Places: never more than there are, none lost, one account never all, and when to come again."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import Overloaded
from luthier.serve.admission import LATEST_SECONDS, SOONEST_SECONDS, Admission
from tests.fakes import Clock

ACCOUNTS = "abc"


class Crowd:
    """Requests that come and go, each with its places."""

    def __init__(self, num_running: int, num_queued: int) -> None:
        self.clock = Clock()
        self.admission = Admission(num_running, num_queued, self.clock)
        self.inside: list[tuple[str, int, ExitStack]] = []
        self.told: list[int] = []
        """When to come again, by each refusal."""

    def comes(self, account: str, num: int = 1) -> bool:
        stack = ExitStack()
        try:
            stack.enter_context(self.admission.place(account, num))
        except Overloaded as error:
            self.told.append(error.retry_after or 0)
            return False
        self.inside.append((account, num, stack))
        return True

    def goes(self, which: int) -> None:
        if self.inside:
            self.inside.pop(which % len(self.inside))[2].close()

    def fill(self, account: str) -> int:
        """How many get in before the first that does not."""
        count = 0
        while self.comes(account):
            count += 1
        return count

    def retry_after(self) -> int:
        assert not self.comes("a")
        return self.told[-1]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(ACCOUNTS), st.integers(1, 16)),
        st.integers(0, 99),
    ),
    max_size=80,
)


@given(num_running=st.integers(1, 8), num_queued=st.integers(0, 40), steps=STEPS)
def test_whatever_comes_and_goes(num_running: int, num_queued: int, steps: list[tuple[str, int] | int]) -> None:
    crowd, places = Crowd(num_running, num_queued), num_running + num_queued
    for step in steps:
        if isinstance(step, int):
            crowd.clock.now += 0.1
            crowd.goes(step)
            continue
        free = places - crowd.admission.num_taken
        is_new = all(account != step[0] for account, *_ in crowd.inside)
        entered = crowd.comes(*step)
        assert 0 <= crowd.admission.num_taken <= places
        assert entered or not (is_new and step[1] == 1 and free)
        assert entered or crowd.inside
    while crowd.inside:
        crowd.goes(0)
    assert crowd.admission.num_taken == 0
    assert all(SOONEST_SECONDS <= seconds <= LATEST_SECONDS for seconds in crowd.told)
    assert all(crowd.comes(account) for account in ACCOUNTS[:places])


def test_one_account_never_has_all() -> None:
    crowd = Crowd(4, 32)
    assert crowd.fill("a") == 18
    assert crowd.fill("b") == 9
    assert crowd.comes("c")


def test_without_a_queue_one_account_may_run_all() -> None:
    crowd = Crowd(4, 0)
    assert crowd.fill("a") == 4
    assert not crowd.comes("b")


def test_many_answers_are_many_places() -> None:
    crowd = Crowd(4, 32)
    assert crowd.comes("a", 16)
    assert not crowd.comes("a", 3)
    assert crowd.comes("a", 2)


def test_what_is_larger_than_the_engine_gets_in_alone() -> None:
    crowd = Crowd(2, 2)
    assert crowd.comes("a", 16)
    assert not crowd.comes("a")
    assert crowd.comes("b")
    crowd.goes(1)
    crowd.goes(0)
    assert crowd.comes("a", 16)


@pytest.mark.parametrize("error", [ValueError, GeneratorExit, KeyboardInterrupt])
def test_places_come_back_however_it_ends(error: type[BaseException]) -> None:
    admission = Admission(1, 0)
    with pytest.raises(error), admission.place("a", 1):
        raise error
    assert admission.num_taken == 0


def test_when_to_come_again_follows_the_pace() -> None:
    crowd = Crowd(4, 32)
    crowd.fill("a")
    assert crowd.retry_after() == SOONEST_SECONDS
    for _ in range(10):
        crowd.clock.now += 2.0
        crowd.goes(0)
        crowd.comes("a")
    assert crowd.retry_after() == 14  # 7 of 14 that wait, one in 2 seconds
    for _ in range(300):
        crowd.clock.now += 0.05
        crowd.goes(0)
        crowd.comes("a")
    assert crowd.retry_after() == SOONEST_SECONDS
    crowd.clock.now += 60.0
    assert crowd.retry_after() == LATEST_SECONDS


def test_a_crowd_that_nobody_was_served_of_is_told_more_as_it_waits() -> None:
    """After a silence too: whoever comes first waits no half minute for what takes a moment."""
    crowd = Crowd(4, 32)
    crowd.comes("a")
    crowd.clock.now += 100.0
    crowd.goes(0)
    crowd.clock.now += 100.0
    crowd.fill("a")
    told = []
    for seconds in (0.1, 0.9, 1.0, 28.0):
        crowd.clock.now += seconds
        told.append(crowd.retry_after())
    assert told == [SOONEST_SECONDS, 7, 14, LATEST_SECONDS]  # 7 are ahead
