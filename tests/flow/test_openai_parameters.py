"""Every parameter of the official client works, or is refused by its name and in OpenAI's words."""

import inspect
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from luthier.serve.doors.bodies import ChatBody, CompletionBody
from luthier.serve.doors.refusals import UNSUPPORTED
from tests.factories import KEY
from tests.fakes import EchoEngine
from tests.flow.conftest import CHAT, error_of

ASK: list[Any] = [{"role": "user", "content": "how are you"}]
OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
TEXTS = "/v1/completions"


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_none_is_unknown(client: openai.OpenAI) -> None:
    for create, body in ((client.chat.completions.create, ChatBody), (client.completions.create, CompletionBody)):
        parameters = set(inspect.signature(create).parameters) - OF_THE_CLIENT
        assert parameters <= body.model_fields.keys() | UNSUPPORTED.keys()


@pytest.mark.parametrize(
    "given",
    [
        {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "metadata": {"a": "b"}},
        {"store": False, "service_tier": "auto", "modalities": ["text"], "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "tool_choice": "none", "logit_bias": {}, "stop": None, "tools": []},
        {"extra_body": dict.fromkeys(["audio", "functions", "reasoning_effort", "verbosity", "store"])},
    ],
)
def test_what_changes_nothing(client: openai.OpenAI, given: dict[str, Any]) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, **given)
    assert answer.choices[0].message.content == "base: how are you"


def test_what_reaches_the_engine(client: openai.OpenAI, engine: EchoEngine) -> None:
    given: dict[str, Any] = {"seed": -(2**63), "logit_bias": {"7": -100, "8": 1.5}, "stop": ["a", "b", "c", "d"]}
    given["extra_body"] = {"top_k": 3}
    client.chat.completions.create(model="tiny", messages=ASK, **given)
    client.completions.create(model="tiny", prompt="a", **given)
    reached = [(request.seed, request.logit_bias, request.stop, request.top_k) for request in engine.requests]
    assert reached == [(-(2**63), {7: -100, 8: 1.5}, ("a", "b", "c", "d"), 3)] * 2


def test_no_choice_but_the_likeliest(client: openai.OpenAI, engine: EchoEngine) -> None:
    """A top_p of 0, which vLLM does not take."""
    client.chat.completions.create(model="tiny", messages=ASK, top_p=0)
    assert 0 < engine.requests[-1].top_p < 1e-5


@pytest.mark.parametrize("name", sorted(UNSUPPORTED.keys() - {"suffix", "store", "service_tier", "modalities"}))
def test_what_is_not_done(api: TestClient, name: str) -> None:
    response = api.post(CHAT, json={"model": "tiny", "messages": ASK, name: {"a": 1}})
    assert name in error_of(response, 400, "unsupported_parameter")
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize(
    ("path", "given"),
    [
        (CHAT, {"store": True}),
        (CHAT, {"service_tier": "priority"}),
        (CHAT, {"modalities": ["text", "audio"]}),
        (TEXTS, {"suffix": "x"}),
    ],
)
def test_what_is_done_in_part(api: TestClient, path: str, given: dict[str, Any]) -> None:
    asked = {"messages": ASK} if path == CHAT else {"prompt": "a"}
    error_of(api.post(path, json={"model": "tiny", **asked, **given}), 400, "unsupported_parameter")


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}


def formatted(schema: dict[str, Any], **given: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}, **given}}


CODES = {
    "Unknown parameter": "unknown_parameter",
    "Missing required parameter": "missing_required_parameter",
    "Invalid type for": "invalid_type",
    "integer below minimum value": "integer_below_min_value",
    "integer above maximum value": "integer_above_max_value",
    "decimal below minimum value": "decimal_below_min_value",
    "decimal above maximum value": "decimal_above_max_value",
    "empty array": "empty_array",
    "array too long": "array_above_max_length",
    "empty string": "empty_string",
    "string too long": "string_above_max_length",
    "too many properties": "object_above_max_properties",
}
"""OpenAI's, by its words."""


def code_of(message: str) -> str:
    return next((code for words, code in CODES.items() if words in message), "invalid_value")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "decimal above maximum value. Expected a value <= 2, but got 3 instead"),
        ({"temperature": -0.5}, "temperature", "decimal below minimum value. Expected a value >= 0, but got -0.5"),
        ({"temperature": "0.5"}, "temperature", "expected a decimal, but got a string instead"),
        *(
            ({name: "a" * 513}, name, "string too long. Expected a string with maximum length 512")
            for name in ("user", "safety_identifier", "prompt_cache_key")
        ),
        ({"metadata": {"a": "b" * 513}}, "metadata.a", "string too long. Expected a string with maximum length 512"),
        ({"stop": ["a" * 4097]}, "stop[0]", "string too long. Expected a string with maximum length 4096"),
        ({"n": 17}, "n", "integer above maximum value. Expected a value <= 16"),
        ({"n": 1.5}, "n", "expected an integer, but got a decimal number instead"),
        ({"n": "2"}, "n", "expected an integer, but got a string instead"),
        ({"max_tokens": True}, "max_tokens", "expected an integer, but got a boolean instead"),
        ({"stream": "no"}, "stream", "expected a boolean, but got a string instead"),
        ({"logprobs": 1}, "logprobs", "expected a boolean, but got an integer instead"),
        ({"max_tokens": 0}, "max_tokens", "integer below minimum value. Expected a value >= 1"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens", "together with 'max_completion_tokens'"),
        ({"top_p": 1.1}, "top_p", "decimal above maximum value. Expected a value <= 1, but got 1.1 instead"),
        ({"seed": 2**63}, "seed", "integer above maximum value"),
        ({"stop": ["x"] * 5}, "stop", "array too long. Expected an array with maximum length 4, but got an array"),
        ({"stop": ""}, "stop", "empty string. Expected a string with minimum length 1, but got an empty string"),
        ({"stop": ["a", ""]}, "stop[1]", "empty string"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7", "Expected a value <= 100, but got 101"),
        ({"logit_bias": {"the": 1}}, "logit_bias.the", "expected an integer, but got a string"),
        ({"top_logprobs": 2}, "top_logprobs", "only allowed when 'logprobs' is enabled"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer above maximum value. Expected a value <= 20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when 'stream' is enabled"),
        (
            {"metadata": dict.fromkeys(map(str, range(17)), "v")},
            "metadata",
            "too many properties. Expected",
        ),
        ({"repetition_penalty": 0}, "repetition_penalty", "Expected a value > 0, but got 0"),
        ({"messages": []}, "messages", "empty array. Expected an array with minimum length 1, but got an empty array"),
        ({"messages": None}, "messages", "expected an array, but got null"),
        (
            {"messages": [{"role": "friend", "content": "x"}]},
            "messages[0].role",
            "Invalid value: 'friend'. Supported values are: 'system'",
        ),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing required parameter"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "Missing required parameter"),
        ({"messages": [{"role": "user", "content": "x", "a": 1}]}, "messages[0].a", "Unknown parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "Supported values are: 'text'",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "the role 'tool'"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "1"}]},
            "messages[0].tool_call_id",
            "no others",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "Supported values are: 'text', 'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
        (formatted({"not": {}}), "response_format", "'not' cannot be kept to (at #)"),
        ({**formatted(SCHEMA), "ignore_eos": True}, "ignore_eos", "ends with its JSON"),
        ({**formatted(SCHEMA), "tools": [TOOL]}, "response_format", "where tools may be called"),
        ({"tool_choice": "required"}, "tool_choice", "only allowed with 'tools'"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", "Supported values are: 'none', 'auto'"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "no function 'g'",
        ),
        ({"tools": [TOOL, TOOL]}, "tools", "two of them are named 'f'"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "match pattern",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools[0].type", "Supported values"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
                "tool_choice": "required",
            },
            "tools[0].function.parameters",
            "of the type 'object'",
        ),
    ],
)
def test_values_that_are_refused(api: TestClient, given: dict[str, Any], param: str, words: str) -> None:
    response = api.post(CHAT, json={"model": "tiny", "messages": ASK, **given})
    message = error_of(response, 400, code_of(response.json()["error"]["message"]))
    assert response.json()["error"]["param"] == param
    assert words in message
    assert message.endswith(".")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"prompt": []}, "prompt", "empty array"),
        ({"prompt": ["a"] * 129}, "prompt", "array too long"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt", "at most 128 choices"),
        ({"prompt": [1, -1]}, "prompt[1]", "Expected a value >= 0"),
        ({"prompt": [[]]}, "prompt[0]", "empty array"),
        ({"logprobs": 6}, "logprobs", "Expected a value <= 5"),
        ({"logprobs": -1}, "logprobs", "Expected a value >= 0"),
        ({"best_of": 3}, "best_of", "nothing else than 'n'"),
        ({"max_tokens": None, "echo": "yes please"}, "echo", "expected a boolean"),
        ({"max_tokens": 0}, "max_tokens", "it is 0 only where 'echo' is true"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "Expected a value >= 0"),
    ],
)
def test_values_of_completions_that_are_refused(api: TestClient, given: dict[str, Any], param: str, words: str) -> None:
    response = api.post(TEXTS, json={"model": "tiny", "prompt": "a", **given})
    message = error_of(response, 400, code_of(response.json()["error"]["message"]))
    assert words in message
    assert response.json()["error"]["param"] == param


def test_parameters_that_nobody_knows(api: TestClient) -> None:
    response = api.post(CHAT, json={"model": "tiny", "messages": ASK, "made_up": 1})
    assert error_of(response, 400, "unknown_parameter") == "Unknown parameter: 'made_up'."
