"""Several prompts in one request: numbered choices, one sum of tokens, and an end for all when one ends."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from luthier.errors import ContextTooLong, InvalidInput, PaymentRequired, Unavailable
from luthier.platform.models import ModelVersion
from luthier.platform.wire import Choice
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from luthier.serve.many import Many
from tests.factories import ADMIN
from tests.fakes import EchoEngine, make_ask


def ask(**given: Any) -> Ask:
    return make_ask(**{"temperature": 1.0, **given})


async def streamed(engine: EchoEngine, asked: Ask, tally: Tally) -> dict[int, str]:
    texts: dict[int, str] = {}
    async for choices in Many(engine).stream(asked, None, tally):
        for choice in choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts


def texts(choices: list[Choice]) -> dict[int, str]:
    return {choice.index: choice.text for choice in choices}


@pytest.mark.parametrize("given", [{"n": 2}, {"n": 2, "temperature": 0.0}])
def test_choices_are_numbered_through(given: dict[str, Any]) -> None:
    asked = ask(prompts=["a", [7, 8], "b c"], **given)
    expected = {0: "base: a", 1: "base: a", 2: "base: 7 8", 3: "base: 7 8", 4: "base: b c", 5: "base: b c"}
    tallies = Tally(), Tally()
    assert texts(asyncio.run(Many(EchoEngine()).whole(asked, None, tallies[0]))) == expected
    assert asyncio.run(streamed(EchoEngine(), asked, tallies[1])) == expected
    assert tallies == (Tally(5, 16), Tally(5, 16))


def test_greedy_choices_are_asked_one_by_one() -> None:
    engine = EchoEngine()
    asyncio.run(Many(engine).whole(ask(prompt="a", n=3, temperature=0.0), None, Tally()))
    assert [(each.prompt, each.n) for each in engine.requests] == [("a", 1)] * 3
    asyncio.run(Many(engine).whole(ask(prompt="a", n=3), None, Tally()))
    assert engine.requests[-1].n == 3


def test_the_first_token_is_that_of_the_first_prompt_to_have_one() -> None:
    class Timed(EchoEngine):
        async def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> list[Choice]:
            number = int(ask.id.removeprefix("req_1-"))
            tally.queued, tally.first = (1.0 + number, 2.0 + number) if number else (None, None)
            return await super().whole(ask, adapter, tally)

    asyncio.run(Many(Timed()).whole(ask(prompts=["a", "b", "c"]), None, tally := Tally()))
    assert (tally.queued, tally.first) == (2.0, 3.0)


@pytest.mark.parametrize("given", [{"prompts": ["a", "b"]}, {"prompt": "a", "n": 2, "temperature": 0.0}])
def test_each_is_asked_by_the_same_caller(given: dict[str, Any]) -> None:
    other, engine = ADMIN.model_copy(update={"account": "other"}), EchoEngine()
    asyncio.run(Many(engine).whole(ask(caller=other, **given), None, Tally()))
    asyncio.run(streamed(engine, ask(caller=other, **given), Tally()))
    assert [each.caller for each in engine.asks] == [other] * 4


@pytest.mark.parametrize("is_streamed", [False, True])
def test_one_that_is_refused_costs_nothing(is_streamed: bool) -> None:
    engine, tally = EchoEngine(context=20), Tally()
    asked = ask(prompts=["a", "b " * 30], max_tokens=2)

    async def both() -> None:
        if is_streamed:
            await streamed(engine, asked, tally)
        await Many(engine).whole(asked, None, tally)

    with pytest.raises(ContextTooLong):
        asyncio.run(both())
    assert (tally, engine.num_open, engine.num_made) == (Tally(), 0, 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_an_engine_made_of_others_counts_when_it_refuses_one(is_streamed: bool) -> None:
    class Picky(EchoEngine):
        async def stream(
            self, ask: Ask, adapter: ModelVersion | None, tally: Tally
        ) -> AsyncGenerator[list[Choice], None]:
            if ask.request.prompt == "no":
                await tally.reserve(1, 1)
                while not self.num_hanging:
                    await asyncio.sleep(0)
                raise InvalidInput("no")
            async with aclosing(super().stream(ask, adapter, tally)) as own:
                async for choices in own:
                    yield choices

    engine, tally = Picky(), Tally()
    engine.hangs_after = 1
    asked = ask(prompts=["a b", "no"])
    asking = streamed(engine, asked, tally) if is_streamed else Many(engine).whole(asked, None, tally)
    with pytest.raises(InvalidInput):
        asyncio.run(asking)
    assert (tally, engine.num_open) == (Tally(2, 1), 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_is_reserved_as_one_before_any_begins(temperature: float) -> None:
    engine, told = EchoEngine(), list[tuple[int, int]]()

    async def reserve(*tokens: int) -> None:
        told.append(tokens)
        assert engine.num_made == 0
        raise PaymentRequired("too much")

    asked = ask(prompts=["a b", "c", "d e f"], n=2, max_tokens=6, temperature=temperature)
    with pytest.raises(PaymentRequired):
        asyncio.run(Many(engine).whole(asked, None, tally := Tally(reserve=reserve)))
    assert (told, tally, engine.num_made) == ([(6, 36)], Tally(), 0)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_engine_that_dies_ends_all(is_streamed: bool) -> None:
    engine, tally = EchoEngine(), Tally()
    engine.dies_after = 1
    asked = ask(prompts=["a", "b"])

    async def both() -> None:
        if is_streamed:
            await streamed(engine, asked, tally)
        await Many(engine).whole(asked, None, tally)

    with pytest.raises(Unavailable):
        asyncio.run(both())
    assert engine.num_open == 0
    assert tally.completion >= 1


@pytest.mark.parametrize("is_streamed", [False, True])
def test_who_leaves_ends_all(is_streamed: bool) -> None:
    engine, tally = EchoEngine(), Tally()
    engine.hangs_after = 1
    asked = ask(prompts=["a", "b"])

    async def leave() -> None:
        asking = streamed(engine, asked, tally) if is_streamed else Many(engine).whole(asked, None, tally)
        task = asyncio.create_task(asking)
        while engine.num_hanging < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert (tally, engine.num_open) == (Tally(2, 2), 0)
