"""What a process asks of its engine: every visit is in one sum, however it ends, and vLLM's counters are read."""

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, Counter

from luthier.errors import Unavailable
from luthier.platform.models import Resolved
from luthier.platform.settled import EngineCounts
from luthier.platform.wire import CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally, Visit
from luthier.serve.metering.engine_counts import Asked, vllm_counters
from tests.factories import ADMIN


@pytest.fixture
def counters() -> Iterator[tuple[Counter, Counter]]:
    """vLLM's, by their names."""
    made = tuple(Counter(f"vllm:{name}_tokens", "Tokens.", ["engine"]) for name in ("prompt", "generation"))
    yield made  # type: ignore[misc] # two
    for each in made:
        REGISTRY.unregister(each)


def visit(
    prompt: int, completion: int, error: BaseException | None = None, n: int = 1, is_billed: bool = True
) -> Visit:
    request = CompleteRequest(model="tiny", prompt="a", n=n)
    ask = Ask("req_1", ADMIN, "COMPLETE", "tiny", request, is_billed=is_billed)
    resolved = Resolved(name="tiny", base_model="tiny")
    return Visit(ask, False, Tally(prompt=prompt, completion=completion), resolved, error=error)


def counted(counters: tuple[Counter, Counter], asked: Asked, prompt: int, generation: int) -> EngineCounts:
    for counter, value in zip(counters, (prompt, generation), strict=True):
        counter.labels("0").inc(value)
    found = asked.counts()
    assert found
    return found


def test_nothing_where_vllm_counts_nothing() -> None:
    assert vllm_counters() is None
    assert Asked(Tally(), lambda: 0).counts() is None


def test_all_that_was_asked_explains_the_engine(counters: tuple[Counter, Counter]) -> None:
    asked = Asked(Tally(prompt=7, completion=1), lambda: 0)
    asked.add(visit(3, 4))
    asked.add(visit(3, 4, is_billed=False))
    asked.add(visit(2, 6, n=3))
    asked.add(visit(0, 0, error=Unavailable("full")))
    found = counted(counters, asked, 7 + 3 + 3 + 2 * 3, 1 + 4 + 4 + 6)
    assert found.difference == (0, 0)
    assert (found.billed.completion_tokens, found.elsewhere.completion_tokens, found.probes.prompt_tokens) == (10, 4, 7)
    assert found.unbilled.records == 1


def test_a_token_that_nobody_asked_for_is_a_difference(counters: tuple[Counter, Counter]) -> None:
    asked = Asked(Tally(), lambda: 0)
    asked.add(visit(3, 4))
    assert counted(counters, asked, 3, 5).difference == (0, 1)


def test_a_client_that_left_pays_for_a_prompt_that_may_not_have_been_read(counters: tuple[Counter, Counter]) -> None:
    asked = Asked(Tally(), lambda: 0)
    asked.add(visit(3, 4))
    asked.add(visit(5, 0, error=asyncio.CancelledError()))
    assert counted(counters, asked, 3, 4).difference == (0, 0)
    assert counted(counters, asked, 5, 0).difference == (0, 0)
    assert counted(counters, asked, 1, 0).difference == (1, 0)


def test_an_engine_at_work_is_not_judged(counters: tuple[Counter, Counter]) -> None:
    assert counted(counters, Asked(Tally(), lambda: 2), 100, 100).difference is None
