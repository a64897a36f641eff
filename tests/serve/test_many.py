"""Several prompts in one request: numbered choices, one sum of tokens, and an end for all when one ends."""

import asyncio
from typing import Any

import pytest

from luthier.errors import ContextTooLong, Unavailable
from luthier.platform.wire import Choice, CompleteRequest
from luthier.serve.complete import Tally
from luthier.serve.many import Many
from tests.fakes import EchoEngine

ASKED = {"model": "tiny", "temperature": 1.0}


def request(**given: Any) -> CompleteRequest:
    return CompleteRequest(**{**ASKED, **given})


async def streamed(engine: EchoEngine, asked: CompleteRequest, tally: Tally) -> dict[int, str]:
    texts: dict[int, str] = {}
    async for choices in Many(engine).stream("req", asked, None, tally):
        for choice in choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts


def texts(choices: list[Choice]) -> dict[int, str]:
    return {choice.index: choice.text for choice in choices}


@pytest.mark.parametrize("given", [{"n": 2}, {"n": 2, "temperature": 0.0}])
def test_choices_are_numbered_through(given: dict[str, Any]) -> None:
    asked = request(prompts=["a", [7, 8], "b c"], **given)
    expected = {0: "base: a", 1: "base: a", 2: "base: 7 8", 3: "base: 7 8", 4: "base: b c", 5: "base: b c"}
    tallies = Tally(), Tally()
    assert texts(asyncio.run(Many(EchoEngine()).whole("req", asked, None, tallies[0]))) == expected
    assert asyncio.run(streamed(EchoEngine(), asked, tallies[1])) == expected
    assert tallies == (Tally(5, 16), Tally(5, 16))


def test_greedy_choices_are_asked_one_by_one() -> None:
    engine = EchoEngine()
    asyncio.run(Many(engine).whole("req", request(prompt="a", n=3, temperature=0.0), None, Tally()))
    assert [(each.prompt, each.n) for each in engine.requests] == [("a", 1)] * 3
    asyncio.run(Many(engine).whole("req", request(prompt="a", n=3), None, Tally()))
    assert engine.requests[-1].n == 3


def test_the_first_token_is_that_of_the_first_prompt_to_have_one() -> None:
    class Timed(EchoEngine):
        async def whole(self, request_id: str, *asked: Any) -> list[Choice]:
            number = int(request_id.removeprefix("req-"))
            asked[-1].queued, asked[-1].first = (1.0 + number, 2.0 + number) if number else (None, None)
            return await super().whole(request_id, *asked)

    asyncio.run(Many(Timed()).whole("req", request(prompts=["a", "b", "c"]), None, tally := Tally()))
    assert (tally.queued, tally.first) == (2.0, 3.0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_one_that_is_refused_costs_nothing(is_streamed: bool) -> None:
    engine, tally = EchoEngine(context=20), Tally()
    asked = request(prompts=["a", "b " * 30], max_tokens=2)

    async def ask() -> None:
        if is_streamed:
            await streamed(engine, asked, tally)
        await Many(engine).whole("req", asked, None, tally)

    with pytest.raises(ContextTooLong):
        asyncio.run(ask())
    assert (tally, engine.num_open) == (Tally(), 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_engine_that_dies_ends_all(is_streamed: bool) -> None:
    engine, tally = EchoEngine(), Tally()
    engine.dies_after = 1
    asked = request(prompts=["a", "b"])

    async def ask() -> None:
        if is_streamed:
            await streamed(engine, asked, tally)
        await Many(engine).whole("req", asked, None, tally)

    with pytest.raises(Unavailable):
        asyncio.run(ask())
    assert engine.num_open == 0
    assert tally.completion >= 1


@pytest.mark.parametrize("is_streamed", [False, True])
def test_who_leaves_ends_all(is_streamed: bool) -> None:
    engine, tally = EchoEngine(), Tally()
    engine.hangs_after = 1
    asked = request(prompts=["a", "b"])

    async def leave() -> None:
        asking = streamed(engine, asked, tally) if is_streamed else Many(engine).whole("req", asked, None, tally)
        task = asyncio.create_task(asking)  # type: ignore[arg-type] # either is awaited
        while engine.num_hanging < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert (tally, engine.num_open) == (Tally(2, 2), 0)
