"""vLLM itself on the tiny model: what it answers, and that tokens are counted to the last one."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from prometheus_client import REGISTRY

from luthier.errors import ContextTooLong, InvalidValue
from luthier.platform.base_models import load_catalog
from luthier.platform.prompts import load_prompts
from luthier.platform.settings import Settings
from luthier.platform.wire import Choice, CompleteRequest, ToolCall, ToolUse
from luthier.serve.complete import Tally
from luthier.serve.engine import VllmEngine
from luthier.serve.many import Many
from luthier.serve.schemas import calls_schema
from tests.e2e.live import TOML
from tests.factories import make_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LONG = 480
"""Tokens of an answer that nobody waits for; the context has 512."""


class Asked:
    """The engine with short words for asking it."""

    def __init__(self, settings: Settings, base_dir: Path) -> None:
        self.engine = VllmEngine(load_catalog(settings).get("tiny"), base_dir, use_gpu=False)

    def ask(self, verb: str, tally: Tally, **given: Any) -> Any:
        fields = {"model": "tiny", "prompt": "the fox", "max_tokens": 8, "ignore_eos": True, "temperature": 1.0}
        return getattr(Many(self.engine), verb)("req", CompleteRequest(**{**fields, **given}), None, tally)

    async def whole(self, **given: Any) -> Choice:
        """The first choice."""
        choices: list[Choice] = await self.ask("whole", Tally(), **given)
        return choices[0]

    async def streamed(self, tally: Tally, **given: Any) -> list[Choice]:
        pieces: dict[int, list[Choice]] = {}
        async for choices in self.ask("stream", tally, **given):
            for choice in choices:
                pieces.setdefault(choice.index, []).append(choice)
        return [joined(pieces[index]) for index in sorted(pieces)]

    def check_idle(self) -> None:
        assert self.engine._engine.get_num_unfinished_requests() == 0

    async def made_more_than(self, num_tokens: int) -> None:
        """Until vLLM has made so many, whoever took them."""
        states = self.engine._engine.output_processor.request_states
        while sum(state.detokenizer.num_output_tokens() for state in states.values()) <= num_tokens:
            assert states
            await asyncio.sleep(0.001)


def joined(pieces: list[Choice]) -> Choice:
    logprobs = [each for piece in pieces for each in piece.logprobs or ()]
    calls: dict[int, ToolCall] = {}
    for call in (call for piece in pieces for call in piece.tool_calls or ()):
        first = calls.get(call.index)
        whole = first.arguments + call.arguments if first else call.arguments
        calls[call.index] = (first or call).model_copy(update={"arguments": whole})
    return Choice(
        index=pieces[0].index,
        text="".join(piece.text for piece in pieces),
        finish_reason=pieces[-1].finish_reason,
        tool_calls=list(calls.values()) or None,
        logprobs=logprobs or None,
    )


def test_the_engine(home: Path, tiny_model: Path) -> None:
    async def checks() -> None:
        settings = make_settings(home, tiny_model)
        (home / "base_models" / "tiny.toml").write_text(TOML.format(path=tiny_model) + 'tool_parser = "hermes"\n')
        asked = Asked(settings, tiny_model)
        try:
            await whole_and_streamed_are_alike(asked)
            await a_seed_and_a_bias(asked)
            await probabilities_and_echo(asked)
            await tokens_are_as_good_as_text(asked, tiny_model)
            await schemas_are_kept_to(asked)
            await what_cannot_be_kept_to_is_refused(asked)
            await tools_are_called(asked)
            await what_cannot_fit_is_never_tokenised(asked)
            await a_crowd_leaves(asked)
            for n in (1, 2):
                await a_client_leaves_a_stream(asked, n)
                await a_client_leaves_before_the_whole_answer(asked, n)
                await a_client_leaves_at_any_moment(asked, n)
        finally:
            asked.engine.kill()

    with mock.patch.dict(os.environ):
        asyncio.run(checks())


async def whole_and_streamed_are_alike(asked: Asked) -> None:
    greedy = {"temperature": 0}
    for given in (
        greedy,
        {**greedy, "n": 2},
        {**greedy, "prompts": ["the fox", "what is"]},
        {"n": 3, "seed": 5},
        {**greedy, "stop": ["e"], "max_tokens": 60},
        {**greedy, "logprobs": 3},
        {"n": 2, "seed": 5, "echo": True, "logprobs": 2},
        {**greedy, "prompts": ["the fox", "what is"], "echo": True},
    ):
        tallies = Tally(), Tally()
        assert await asked.ask("whole", tallies[0], **given) == await asked.streamed(tallies[1], **given)
        assert tallies[0] == tallies[1]
    assert (await asked.ask("whole", tally := Tally(), n=3))[2].finish_reason == "length"
    assert tally.completion == 24


async def a_seed_and_a_bias(asked: Asked) -> None:
    texts = [(await asked.whole(seed=seed)).text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    token = 70
    (forced,) = {each.token for each in (await asked.whole(logit_bias={token: 100.0}, logprobs=0)).logprobs or ()}
    assert (await asked.whole(temperature=0, logit_bias={token: 100.0})).text == forced * 8
    with pytest.raises(InvalidValue, match="out-of-vocab") as caught:
        await asked.whole(logit_bias={99_999: 1.0})
    assert caught.value.param == "logit_bias"


async def probabilities_and_echo(asked: Asked) -> None:
    plain = await asked.whole(temperature=0)
    assert plain.logprobs is None
    choice = await asked.whole(temperature=0, logprobs=3)
    assert (choice.text, "".join(each.token for each in choice.logprobs or ())) == (plain.text, plain.text)
    for each in choice.logprobs or ():
        assert [number for _, number in each.top] == sorted((number for _, number in each.top), reverse=True)
        assert len(each.top) == 3
        assert each.top[0] == (each.token, each.logprob)
    ended = await asked.whole(logprobs=0, logit_bias={2: 100.0}, ignore_eos=False)  # the token that ends a sequence
    assert (ended.text, ended.finish_reason, ended.logprobs) == ("", "stop", [])
    echoed = await asked.whole(temperature=0, echo=True, logprobs=1)
    assert echoed.text == "the fox" + plain.text
    tokens = echoed.logprobs or []
    assert "".join(each.token for each in tokens) == echoed.text
    assert [each.logprob is None for each in tokens] == [True] + [False] * (len(tokens) - 1)
    assert (await asked.whole(temperature=0, echo=True)).text == echoed.text


async def tokens_are_as_good_as_text(asked: Asked, base_dir: Path) -> None:
    ids = load_prompts(base_dir).encode("the fox")
    assert await asked.whole(temperature=0, prompt=ids) == await asked.whole(temperature=0)
    assert (await asked.whole(temperature=0, prompt=ids, echo=True)).text.startswith("the fox")
    with pytest.raises(InvalidValue) as caught:
        await asked.whole(prompt=[99_999])
    assert caught.value.param == "prompt"


SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "yy"]}, "n": {"type": "integer", "minimum": 1, "maximum": 20}},
    "required": ["a", "n"],
    "additionalProperties": False,
}
FREE = {"ignore_eos": False, "max_tokens": 200}
"""A grammar ends the answer."""


async def schemas_are_kept_to(asked: Asked) -> None:
    for seed in range(3):
        choice = await asked.whole(json_schema=SCHEMA, seed=seed, **FREE)
        assert [choice] == await asked.streamed(Tally(), json_schema=SCHEMA, seed=seed, **FREE)
        found = json.loads(choice.text)
        assert (found["a"] in ("x", "yy"), 1 <= found["n"] <= 20, choice.finish_reason) == (True, True, "stop")
    assert (await asked.whole(json_schema={}, **FREE)).text.startswith("{")


async def what_cannot_be_kept_to_is_refused(asked: Asked) -> None:
    for schema in (
        {"type": "foo"},
        {"type": "string", "pattern": "(["},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "array", "uniqueItems": True},
        {"type": "string", "pattern": r"^(a|b|c|[a-z]{3,80}|\d+){10,200}$"},  # only its compilation fails
    ):
        for verb in ("whole", "streamed"):
            tally = Tally()
            asking = asked.ask("whole", tally, json_schema=schema) if verb == "whole" else None
            with pytest.raises(InvalidValue) as caught:
                await (asking or asked.streamed(tally, json_schema=schema))
            assert (caught.value.param, tally) == ("response_format", Tally())
            assert "\n" not in caught.value.message
            assert "/project/" not in caught.value.message
    asked.check_idle()


async def tools_are_called(asked: Asked) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("first", "second")]
    turns = {"prompt": None, "messages": [{"role": "user", "content": "what is the answer?"}]}
    forced = calls_schema({"first": SCHEMA, "second": SCHEMA}, most=2)
    for is_named in (False, True):
        use = ToolUse(tools=tools, is_forced=True, is_named=is_named)
        given = {**turns, **FREE, "tools": use, "json_schema": forced, "seed": 3}
        choice, (streamed,) = await asked.whole(**given), await asked.streamed(Tally(), **given)
        assert (choice.text, choice.finish_reason) == ("", "stop" if is_named else "tool_calls")
        for each in (choice, streamed):
            for call in each.tool_calls or ():
                assert call.name in ("first", "second")
                assert set(json.loads(call.arguments)) == {"a", "n"}
        assert [(each.name, each.arguments) for each in choice.tool_calls or ()] == [
            (each.name, each.arguments) for each in streamed.tool_calls or ()
        ]
        assert choice.tool_calls
    free = {**turns, "tools": ToolUse(tools=tools), "temperature": 0}
    told = await asked.whole(**free)
    assert [told] == await asked.streamed(Tally(), **free)
    assert (bool(told.text), told.tool_calls) == (True, None)


async def what_cannot_fit_is_never_tokenised(asked: Asked) -> None:
    with mock.patch.object(asked.engine, "render", side_effect=AssertionError("tokenised")):
        for given in ({"prompt": "a" * 2**20}, {"messages": [{"role": "user", "content": ""}] * 513}):
            with pytest.raises(ContextTooLong, match="512 tokens"):
                await asked.ask("whole", Tally(), **given)


async def a_crowd_leaves(asked: Asked) -> None:
    """More than run at once, some of them whole, some many at once; vLLM counts no other tokens than the tallies."""
    before = engine_tokens()
    tallies = [Tally() for _ in range(40)]
    asks = [asked.ask("whole", tally, max_tokens=LONG, n=1 + at % 2) for at, tally in enumerate(tallies)]
    tasks = [asyncio.create_task(each) for each in asks]
    while engine_tokens() < before + 2_000:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert time.monotonic() - began < 1
    asked.check_idle()
    assert all(tally.prompt for tally in tallies)
    assert not all(tally.completion for tally in tallies)
    await asked.ask("whole", tally := Tally())
    assert time.monotonic() - began < 2  # nothing was before it
    assert (sample("num_requests_running"), sample("num_requests_waiting")) == (0, 0)
    assert engine_tokens() - before == sum(each.completion for each in (*tallies, tally))


def engine_tokens() -> float:
    return sample("generation_tokens_total")


def sample(name: str) -> float:
    """A metric of vLLM's own."""
    found = [each.value for metric in REGISTRY.collect() for each in metric.samples if each.name == f"vllm:{name}"]
    return sum(found)


async def a_client_leaves_a_stream(asked: Asked, n: int) -> None:
    tally = Tally()
    stream = asked.ask("stream", tally, max_tokens=LONG, n=n)
    for _ in range(5):
        await anext(stream)
    handed_over = tally.completion
    await asked.made_more_than(handed_over)
    await stream.aclose()
    assert 5 <= handed_over < tally.completion < LONG * n
    asked.check_idle()


async def a_client_leaves_before_the_whole_answer(asked: Asked, n: int) -> None:
    task = asyncio.create_task(asked.ask("whole", tally := Tally(), max_tokens=LONG, n=n))
    while asked.engine._engine.get_num_unfinished_requests() < n:
        assert not task.done()
        await asyncio.sleep(0.001)
    await asked.made_more_than(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tally.prompt > 0
    assert 0 < tally.completion < LONG * n
    asked.check_idle()


async def a_client_leaves_at_any_moment(asked: Asked, n: int) -> None:
    """Before vLLM has the request, in the middle, and when the answer is there but not yet taken."""
    for num_steps in (*range(12), *range(12, 200, 20)):
        task = asyncio.create_task(asked.ask("whole", tally := Tally(), n=n))
        for _ in range(num_steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert 0 <= tally.completion <= 8 * n
        asked.check_idle()
    await asked.ask("whole", tally := Tally(), n=n)
    assert tally.completion == 8 * n
