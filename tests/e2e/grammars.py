"""What a grammar says that an answer must be: schemas, and calls of tools."""

import json

import pytest

from luthier.errors import InvalidValue
from luthier.platform.wire import ToolUse
from luthier.serve.complete import Tally
from luthier.serve.doors.schemas import calls_schema
from tests.e2e.asked import Asked

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
    texts = {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 3}, "minItems": 3, "maxItems": 3}
    for seed in range(8):  # of random weights, so control characters come soon
        told = json.loads((await asked.whole(json_schema=texts, seed=seed, **FREE)).text)
        assert [1 <= len(text) <= 3 for text in told] == [True] * 3


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
    parameters = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    turns = {"prompt": None, "messages": [{"role": "user", "content": "what?"}]}
    for is_named in (False, True):
        use = ToolUse(tools=tools, is_forced=True, is_named=is_named)
        given = {**turns, **FREE, "tools": use, "json_schema": calls_schema({"f": parameters}, most=2), "seed": 3}
        choice, (streamed,) = await asked.whole(**given), await asked.streamed(Tally(), **given)
        assert (choice.text, choice.finish_reason) == ("", "stop" if is_named else "tool_calls")
        made = [[(call.name, call.arguments) for call in each.tool_calls or ()] for each in (choice, streamed)]
        assert made[0] == made[1]
        assert {(name, json.loads(arguments)["n"]) for name, arguments in made[0]} <= {("f", 1), ("f", 22)}
        assert made[0]
    free = {**turns, "tools": ToolUse(tools=tools), "temperature": 0}
    told = await asked.whole(**free)
    assert [told] == await asked.streamed(Tally(), **free)
    assert (bool(told.text), told.tool_calls) == (True, None)
