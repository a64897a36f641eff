"""Snowflake's Cortex REST API, with the bodies that snowflake.core 1.13 and snowflake.cortex 2.6 send."""

import itertools
import json
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from luthier.errors import Overloaded
from luthier.serve.doors.bodies import LEAST_TOP_P
from tests.factories import KEY
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import error_of

PREFIX = "/api/v2/cortex"
INFERENCE = f"{PREFIX}/inference:complete"
ASK = [{"content": "how are you"}]
CORE: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "how are you"}],
    "top_p": 1.0,
    "max_tokens": 4096,
    "stream": True,
    "anthropic": None,
    "openai": None,
    "temperature": None,
    "max_output_tokens": None,
    "response_format": None,
    "guardrails": None,
    "tool_choice": None,
    "provisioned_throughput_id": None,
}
"""What snowflake.core makes of CompleteRequest(model, messages)."""
BAD = "schema validation failed: Invalid 'response_format': a schema is refused: "
MANY = {"type": "object", "properties": {f"p{number}": {} for number in range(501)}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def post(api: TestClient, **given: Any) -> Any:
    return api.post(INFERENCE, json={"model": "tiny", "messages": ASK, **given})


def events(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def text_of(pieces: list[dict[str, Any]]) -> str:
    return "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)


def refused(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    told = response.json()
    assert told["code"] == told["error_code"] == code
    assert told["request_id"] == response.headers["x-snowflake-request-id"] == response.headers["x-request-id"]
    message: str = told["message"]
    assert "\n" not in message
    return message


def test_a_stream_is_the_default(api: TestClient) -> None:
    response = post(api)
    assert response.headers["content-type"] == "text/event-stream"
    pieces = events(response)
    assert text_of(pieces) == "base: how are you"
    first, *middle, last = pieces
    delta = {"type": "text", "content": "base:", "content_list": [{"type": "text", "text": "base:"}], "text": "base:"}
    assert first == {
        "id": response.headers["x-request-id"],
        "created": first["created"],
        "model": "tiny",
        "choices": [{"delta": delta}],
        "usage": {},
    }
    assert middle[-1]["choices"][0]["finish_reason"] == "stop"
    assert [piece["usage"] for piece in middle] == [{}] * len(middle)
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    "body",
    [
        CORE,
        {"model": "tiny", "stream": True, "messages": ASK},
        {**CORE, "stream": None, "guardrails": {"enabled": False, "response_when_unsafe": "no"}, "tools": []},
    ],
    ids=["core", "cortex", "nulls"],
)
def test_what_snowflakes_clients_send(server: str, engine: EchoEngine, body: dict[str, Any]) -> None:
    headers = {"Authorization": f'Snowflake Token="{KEY}"', "Accept": "application/json, text/event-stream"}
    with httpx.stream("POST", f"{server}{INFERENCE}", json=body, headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        pieces = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert text_of(pieces) == "base: how are you"
    (request,) = engine.requests
    assert request.messages == [{"role": "user", "content": "how are you"}]
    assert (request.temperature, request.top_p, request.max_tokens) == (0.0, 1.0, None)


def test_all_at_once(api: TestClient) -> None:
    response = post(api, stream=False, max_tokens=2)
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    content = {"content": "base: how", "content_list": [{"type": "text", "text": "base: how"}]}
    assert answer == {
        "id": response.headers["x-request-id"],
        "created": answer["created"],
        "model": "tiny",
        "choices": [{"message": {"role": "assistant", **content}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_options(api: TestClient, engine: EchoEngine) -> None:
    post(api, temperature=0.7, top_p=0.5, max_tokens=9, max_output_tokens=9)
    post(api, temperature=1, top_p=0, max_tokens=4096, max_output_tokens=5)
    post(api, max_tokens=4096, max_output_tokens=4096)
    asked = [(each.temperature, each.top_p, each.max_tokens) for each in engine.requests]
    assert asked == [(0.7, 0.5, 9), (1.0, LEAST_TOP_P, 5), (0.0, 1.0, None)]


def test_a_conversation_in_parts(api: TestClient, engine: EchoEngine) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi", "content_list": [{"type": "text", "text": "hi"}]},
        {"content_list": parts},
    ]
    assert text_of(events(post(api, messages=messages))) == "base: a b"
    roles = [message["role"] for message in engine.requests[0].messages or []]
    assert roles == ["system", "user", "assistant", "user"]


def test_structured_output(api: TestClient, engine: EchoEngine) -> None:
    given = {"messages": [{"content": '{"a": "b"}'}], "response_format": {"type": "json", "schema": SCHEMA}}
    assert json.loads(text_of(events(post(api, **given)))) == {"a": "b"}
    assert engine.requests[0].json_schema == SCHEMA


@pytest.mark.parametrize("says", [None, '{"a": "b"} c'], ids=["cut", "no JSON"])
def test_an_answer_that_does_not_follow_its_schema(api: TestClient, engine: EchoEngine, says: str | None) -> None:
    engine.says = says
    asked = [{"content": '{"a": "b c"}'}]
    given = {
        "messages": asked,
        "response_format": {"type": "json", "schema": SCHEMA},
        "max_tokens": 2 if not says else 9,
    }
    told = refused(post(api, stream=False, **given), 400, "schema_validation_failed")
    assert told.startswith("schema validation failed: the answer is not complete JSON: ")
    assert says or "cut at max_tokens" in told
    *pieces, last = events(post(api, **given))
    assert text_of(pieces) == (says or '{"a": "b')
    assert [piece["usage"] for piece in pieces] == [{}] * len(pieces)
    assert (last["error"]["code"], last["error"]["message"]) == ("schema_validation_failed", told)
    (record,) = api.get("/luthier/v1/usage/completions", params={"group_by": "function"}).json()["usage"]
    assert (record["records"], record["completion_tokens"]) == (2, 2 * len(pieces))


def test_who_comes_too_much_is_told_when_to_come_again(
    api: TestClient, completions: LocalCompletions, engine: EchoEngine
) -> None:
    """A place that somebody else holds: of all places none is left."""
    admission = completions.admission("tiny")
    with ExitStack() as held:
        with suppress(Overloaded):
            for number in itertools.count():
                held.enter_context(admission.place(f"other{number}", 1))
        for stream in (True, False):
            response = post(api, stream=stream)
            assert refused(response, 429, "overloaded").startswith("too many requests: The engine is busy: ")
            assert 1 <= int(response.headers["retry-after"]) <= 30
    assert engine.requests == []
    assert post(api).status_code == 200


def test_who_has_no_credits(api: TestClient) -> None:
    api.put("/luthier/v1/credits/limit", json={})
    for stream in (True, False):
        told = refused(post(api, stream=stream), 402, "insufficient_credits")
        assert told.startswith("budget exceeded: The account's balance has 0 credits")


def test_a_tuned_model_by_its_full_name(api: TestClient, tuned: str) -> None:
    answer = post(api, model="luthier.public.tuned", stream=False).json()
    assert answer["choices"][0]["message"]["content"] == "LUTHIER.PUBLIC.tuned: how are you"
    assert answer["model"] == "luthier.public.tuned"


def test_answers_are_billed_by_route(api: TestClient) -> None:
    post(api)
    post(api, stream=False)
    (record,) = api.get("/luthier/v1/usage/completions", params={"group_by": "function"}).json()["usage"]
    counts = (record["records"], record["prompt_tokens"], record["completion_tokens"])
    assert (record["function"], counts) == ("CORTEX_INFERENCE", (2, 6, 8))


@pytest.mark.parametrize(
    ("given", "status", "code", "words"),
    [
        ({"model": "nobody"}, 400, "model_not_found", "unknown model 'nobody'"),
        ({"model": "smollm2-135m"}, 400, "model_not_found", "unknown model: Base model smollm2-135m is not served"),
        ({"temperature": 2.5}, 400, "invalid_parameter_value", "invalid options object: temperature: "),
        ({"temperature": -1}, 400, "invalid_parameter_value", "invalid options object: temperature: "),
        ({"top_p": 1.1}, 400, "invalid_parameter_value", "invalid options object: top_p: "),
        ({"max_tokens": -1}, 400, "invalid_parameter_value", "invalid options object: max_tokens: "),
        ({"max_tokens": 600}, 400, "context_length_exceeded", "max tokens of 512 exceeded: The context window"),
        ({"seed": 1}, 400, "invalid_parameter_value", "invalid options object: seed: Extra"),
        ({"response_format": {"type": "xml"}}, 400, "invalid_parameter_value", "response_format.type"),
        ({"response_format": {"type": "json", "schema": {"not": {}}}}, 400, "invalid_value", f"{BAD}'not' cannot be"),
        ({"response_format": {"type": "json", "schema": MANY}}, 400, "invalid_value", f"{BAD}it has 501 properties"),
        ({"guardrails": {"enabled": True}}, 400, "invalid_parameter_value", "guardrails: "),
        ({"tools": [{"tool_spec": {}}]}, 400, "invalid_parameter_value", "tools: "),
        ({"tool_choice": {"type": "auto"}}, 400, "invalid_parameter_value", "tool_choice: "),
        ({"provisioned_throughput_id": "x"}, 400, "invalid_parameter_value", "provisioned_throughput_id: "),
        ({"openai": {"reasoning": {"effort": "low"}}}, 400, "invalid_parameter_value", "openai: "),
        ({"messages": []}, 400, "invalid_parameter_value", "messages"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_parameter_value", "content or content_list"),
        (
            {"messages": [{"content": "a", "content_list": [{"type": "text", "text": "b"}]}]},
            400,
            "invalid_parameter_value",
            "different things",
        ),
        ({"messages": [{"content_list": [{"type": "image"}]}]}, 400, "invalid_parameter_value", "content_list.0"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "invalid_parameter_value", "messages.0.role"),
        ({"messages": [*ASK, {"role": "system", "content": "a"}]}, 400, "invalid_parameter_value", "the first"),
        ({"messages": [*ASK, {"role": "assistant", "content": "a"}]}, 400, "invalid_parameter_value", "the user's"),
        ({"messages": [{"role": "system", "content": "a"}]}, 400, "invalid_parameter_value", "the user's"),
        ({"messages": [*ASK, *ASK]}, 400, "invalid_parameter_value", "take turns"),
    ],
)
def test_what_is_refused(api: TestClient, given: dict[str, Any], status: int, code: str, words: str) -> None:
    for stream in (True, False):
        assert words in refused(post(api, **{"stream": stream, **given}), status, code)
    assert api.get("/luthier/v1/usage/completions").json()["usage"] == []


@pytest.mark.parametrize(
    "header", [None, "Bearer lt_wrong", 'Snowflake Token="lt_wrong"', 'Snowflake Key="lt_test_key"']
)
@pytest.mark.parametrize(("method", "path"), [("POST", INFERENCE), ("GET", f"{PREFIX}/models")])
def test_without_a_key(app: Any, header: str | None, method: str, path: str) -> None:
    with TestClient(app, headers={"Authorization": header} if header else {}) as nobody:
        body = {"json": {"model": "tiny", "messages": ASK}} if method == "POST" else {}
        refused(nobody.request(method, path, **body), 401, "invalid_api_key")


def test_what_is_no_json_and_what_is_no_route(api: TestClient) -> None:
    assert "not valid JSON" in refused(api.post(INFERENCE, content=b"{"), 400, "invalid_parameter_value")
    assert "limit of 1 MiB" in refused(api.post(INFERENCE, content=b" " * 1_100_000), 413, "request_too_large")
    assert "No route" in refused(api.get(f"{PREFIX}/nothing"), 404, "not_found")
    assert "allowed: POST" in refused(api.get(INFERENCE), 405, "method_not_allowed")


def test_an_engine_that_dies(api: TestClient, engine: EchoEngine) -> None:
    engine.dies_after = 0
    response = post(api)
    assert refused(response, 503, "unavailable").startswith("inference timed out: The engine stopped")
    assert response.headers["retry-after"] == "2"
    engine.dies_after = 2
    *pieces, last = events(post(api))
    assert text_of(pieces) == "base: how"
    assert (last["choices"], last["error"]["code"]) == ([], "unavailable")
    assert last["error"]["message"].startswith("inference timed out: ")


def test_models(api: TestClient, tuned: str) -> None:
    assert api.get(f"{PREFIX}/models").json() == {"models": ["tiny", "LUTHIER.PUBLIC.tuned"]}


def test_openais_client_under_cortex(server: str, api: TestClient, tuned: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "how are you"}]
    with openai.OpenAI(base_url=f"{server}{PREFIX}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(model="LUTHIER.PUBLIC.TUNED", messages=messages)
        assert answer.choices[0].message.content == "LUTHIER.PUBLIC.tuned: how are you"
        stream = client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_completion_tokens=2,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "base: how"
        assert chunks[-1].usage is not None
        with pytest.raises(openai.BadRequestError, match="Use 'max_completion_tokens' instead") as caught:
            client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "max_tokens")
        with pytest.raises(openai.NotFoundError, match="Unknown model 'nobody'"):
            client.chat.completions.create(model="nobody", messages=messages)
    usage = api.get("/luthier/v1/usage/completions", params={"group_by": "function"}).json()["usage"]
    assert [(row["function"], row["records"]) for row in usage] == [("CORTEX_CHAT_COMPLETIONS", 2)]


def test_the_chat_route_refuses_in_openais_form(api: TestClient) -> None:
    response = api.post(f"{PREFIX}/v1/chat/completions", json={"model": "tiny"})
    assert "messages" in error_of(response, 400, "missing_required_parameter")
