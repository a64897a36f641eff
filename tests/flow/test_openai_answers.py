"""What OpenAI's official client reads beyond text: probabilities, JSON, calls of tools, answers to many prompts."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from tests.factories import KEY
from tests.fakes import EchoEngine

ASK: list[Any] = [{"role": "user", "content": "how are you"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
CALLS = '[{"name": "weather", "parameters": {"city": "New York"}}, {"name": "now", "parameters": {}}]'
MADE = [("weather", {"city": "New York"}), ("now", {})]


class City(BaseModel):
    city: str


@pytest.fixture
def url(server: str) -> str:
    """Of the gateway: a replica's own door answers by the same code (test_openai.py)."""
    return f"{server}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def told(calls: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


def test_probabilities_of_a_chat(client: openai.OpenAI, engine: EchoEngine) -> None:
    given: Any = {"model": "tiny", "messages": ASK, "logprobs": True, "top_logprobs": 2}
    content = client.chat.completions.create(**given).choices[0].logprobs.content
    assert [each.token for each in content] == ["base:", " how", " are", " you"]
    assert (content[1].logprob, bytes(content[1].bytes).decode()) == (-0.5, " how")
    assert [(each.token, each.logprob) for each in content[1].top_logprobs] == [(" how0", -1.0), (" how1", -2.0)]
    chunks = client.chat.completions.create(**given, stream=True)
    pieces = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [each for piece in pieces for each in piece.content] == content
    assert engine.requests[0].logprobs == 2


def test_probabilities_of_the_taken_tokens_alone(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, logprobs=True)
    assert [each.top_logprobs for each in answer.choices[0].logprobs.content] == [[]] * 4
    assert client.chat.completions.create(model="tiny", messages=ASK, logprobs=False).choices[0].logprobs is None


def test_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    given: Any = {"model": "tiny", "prompt": "a b", "logprobs": 1}
    found = client.completions.create(**given).choices[0].logprobs
    assert (found.tokens, found.text_offset) == (["base:", " a", " b"], [0, 5, 7])
    assert (found.token_logprobs, found.top_logprobs[1]) == ([-0.5] * 3, {" a": -0.5, " a0": -1.0})
    pieces = [chunk.choices[0].logprobs for chunk in client.completions.create(**given, stream=True)]
    assert [offset for piece in pieces for offset in piece.text_offset] == found.text_offset
    assert [token for piece in pieces for token in piece.tokens] == found.tokens


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {}),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, SCHEMA),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, {}),
    ],
)
def test_response_formats(client: openai.OpenAI, engine: EchoEngine, form: Any, schema: Any) -> None:
    client.chat.completions.create(model="tiny", messages=ASK, response_format=form)
    assert engine.requests[0].json_schema == schema


def test_what_the_client_parses(client: openai.OpenAI, engine: EchoEngine) -> None:
    engine.says = '{"city": "Rome"}'
    answer = client.chat.completions.parse(model="tiny", messages=ASK, response_format=City)
    assert answer.choices[0].message.parsed == City(city="Rome")
    schema = engine.requests[0].json_schema
    assert schema is not None
    assert schema["required"] == ["city"]
    with client.chat.completions.stream(model="tiny", messages=ASK, response_format=City) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == City(city="Rome")


def test_calls_of_tools(client: openai.OpenAI, engine: EchoEngine) -> None:
    engine.says = CALLS
    answer = client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, tool_choice="required")
    message = answer.choices[0].message
    assert message.content is None
    assert told(message.tool_calls) == MADE
    request = engine.requests[0]
    assert request.tools is not None
    assert [tool["function"]["name"] for tool in request.tools.tools] == ["weather", "now"]
    assert request.tools.tools[1] == {"type": "function", "function": {"name": "now"}}
    assert request.json_schema is not None
    assert "maxItems" not in request.json_schema


def test_calls_in_a_stream(client: openai.OpenAI, engine: EchoEngine) -> None:
    engine.says = CALLS
    given: Any = {"model": "tiny", "messages": ASK, "tools": TOOLS, "tool_choice": "required", "n": 2}
    with client.chat.completions.stream(**given) as stream:
        choices = stream.get_final_completion().choices
    assert [told(choice.message.tool_calls) for choice in choices] == [MADE, MADE]
    chunks = client.chat.completions.create(**given, stream=True)
    pieces = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert len([piece for piece in pieces if piece.id]) == 4
    assert all(piece.type == "function" and piece.function.name for piece in pieces if piece.id)


@pytest.mark.parametrize(
    ("given", "is_forced", "names"),
    [
        ({}, False, None),
        ({"tool_choice": "auto"}, False, None),
        ({"tool_choice": "required", "parallel_tool_calls": False}, True, ["weather", "now"]),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, True, ["now"]),
    ],
)
def test_choices_of_tools(
    client: openai.OpenAI, engine: EchoEngine, given: Any, is_forced: bool, names: list[str] | None
) -> None:
    client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, **given)
    use, schema = engine.requests[0].tools, engine.requests[0].json_schema
    assert use is not None
    assert (use.is_forced, len(use.tools)) == (is_forced, 2)
    if names is None:
        assert schema is None
    else:
        assert schema is not None
        calls = schema["items"]["anyOf"]
        assert [each["properties"]["name"]["const"] for each in calls] == names
        assert schema["maxItems"] == 1


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_some_of_the_tools(client: openai.OpenAI, engine: EchoEngine, mode: Any) -> None:
    now: Any = {"type": "function", "function": {"name": "now"}}
    client.chat.completions.create(
        model="tiny",
        messages=ASK,
        tools=TOOLS,
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [now]}},
    )
    use, schema = engine.requests[0].tools, engine.requests[0].json_schema
    assert use is not None
    assert (use.tools, use.is_forced, use.is_named) == ([now], mode == "required", False)
    names = [each["properties"]["name"]["const"] for each in schema["items"]["anyOf"]] if schema else None
    assert names == (["now"] if mode == "required" else None)


def test_a_conversation_with_tools(client: openai.OpenAI, engine: EchoEngine) -> None:
    engine.says = CALLS
    message = client.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, tool_choice="required").choices[0]
    calls = message.message.tool_calls
    history = [*ASK, message.message, {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}]
    client.chat.completions.create(model="tiny", messages=history, tools=TOOLS, tool_choice="none")
    asked = engine.requests[1]
    assert (asked.tools, asked.json_schema) == (None, None)
    assert asked.messages is not None
    assert asked.messages[1]["content"] == ""
    assert [(call["id"], call["function"]) for call in asked.messages[1]["tool_calls"]] == [
        (call.id, {"name": name, "arguments": arguments}) for call, (name, arguments) in zip(calls, MADE, strict=True)
    ]
    assert asked.messages[2] == {"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"}


PROMPTS: list[Any] = [["a", "b c"], [[7], [8, 9]]]


@pytest.mark.parametrize("prompts", PROMPTS)
def test_many_prompts(client: openai.OpenAI, api: TestClient, prompts: Any) -> None:
    words = [" ".join(map(str, each)) if isinstance(each, list) else each for each in prompts]
    answer = client.completions.create(model="tiny", prompt=prompts, n=2)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (at, f"base: {words[at // 2]}") for at in range(4)
    ]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 10)
    (record,) = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert (record["prompt_tokens"], record["completion_tokens"]) == (3, 10)


def test_many_prompts_in_a_stream(client: openai.OpenAI) -> None:
    given: Any = {"model": "tiny", "prompt": ["a", "b c"], "stream": True, "stream_options": {"include_usage": True}}
    texts: dict[int, str] = {}
    *chunks, last = client.completions.create(**given)
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {0: "base: a", 1: "base: b c"}
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 3, 5)


def test_echo_reaches_the_engine(client: openai.OpenAI, engine: EchoEngine) -> None:
    client.completions.create(model="tiny", prompt="a", echo=True, n=2, best_of=2)
    client.completions.create(model="tiny", prompt="a", echo=False)
    assert [request.echo for request in engine.requests] == [True, False]


def test_the_client_that_does_not_block(url: str, engine: EchoEngine) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            given: Any = {"model": "tiny", "messages": ASK}
            whole = await client.chat.completions.create(**given, logprobs=True)
            chunks = await client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
            assert await gathered(chunks) == (whole.choices[0].message.content, whole.usage)
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(**given, top_p=2)
            assert (caught.value.code, caught.value.param) == ("decimal_above_max_value", "top_p")

    async def gathered(chunks: AsyncIterator[Any]) -> tuple[str, Any]:
        text, usage = "", None
        async for chunk in chunks:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            usage = chunk.usage
        return text, usage

    asyncio.run(ask())
