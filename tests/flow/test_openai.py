"""OpenAI's protocol with its official client over a real socket."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from tests.factories import KEY
from tests.fakes import EchoEngine
from tests.flow.conftest import create, error_of

ASK: list[Any] = [{"role": "user", "content": "how are you"}]


@pytest.fixture(params=["/v1", "/m/tiny/v1"], ids=["gateway", "direct"])
def url(server: str, request: pytest.FixtureRequest) -> str:
    """Where OpenAI's protocol is spoken: every test here holds for each of the doors."""
    return f"{server}{request.param}"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


def post(url: str, body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.post(url, **({"content": body} if isinstance(body, bytes) else {"json": body}), headers=headers)


def counts(usage: Any) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def test_chat(client: openai.OpenAI, engine: EchoEngine) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, temperature=0.5, seed=3)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "base: how are you",
        "stop",
    )
    assert counts(answer.usage) == (3, 4, 7)
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "tiny", "chatcmpl-")
    assert (engine.requests[0].temperature, engine.requests[0].seed) == (0.5, 3)


def test_defaults_are_those_of_openai(client: openai.OpenAI, engine: EchoEngine) -> None:
    client.chat.completions.create(model="tiny", messages=ASK)
    client.completions.create(model="tiny", prompt="a b")
    assert [request.temperature for request in engine.requests] == [1.0, 1.0]
    assert [request.max_tokens for request in engine.requests] == [None, 16]


def test_messages_in_parts_and_from_developers(client: openai.OpenAI, engine: EchoEngine) -> None:
    parts: list[Any] = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]},
    ]
    client.chat.completions.create(model="tiny", messages=parts)
    assert engine.requests[0].messages == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "a b"},
    ]


@pytest.mark.parametrize("prompt", ["a b c", ["a b c"], [[7, 8, 9]]])
def test_completions(client: openai.OpenAI, prompt: Any) -> None:
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=3)
    assert answer.choices[0].text in ("base: a b", "base: 7 8")
    assert answer.choices[0].finish_reason == "length"
    assert (answer.object, answer.id[:5]) == ("text_completion", "cmpl-")
    assert counts(answer.usage) == (3, 3, 6)


def test_many_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, n=2)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [
        (0, "base: how are you"),
        (1, "base: how are you"),
    ]
    assert counts(answer.usage) == (3, 8, 11)


@pytest.mark.parametrize("stop", ["are", ["are", "never"]])
def test_stop(client: openai.OpenAI, stop: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, stop=stop)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("base: how", "stop")


@pytest.mark.parametrize("given", [{"max_tokens": 2}, {"max_completion_tokens": 2}])
def test_max_tokens(client: openai.OpenAI, given: dict[str, Any]) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, **given)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("base: how", "length")


def test_a_tuned_model(client: openai.OpenAI, tuned: str) -> None:
    answer = client.chat.completions.create(model=tuned, messages=ASK)
    assert answer.choices[0].message.content == "LUTHIER.PUBLIC.tuned: how are you"
    assert answer.model == tuned


@pytest.mark.parametrize("num_choices", [1, 2])
def test_a_chat_stream(client: openai.OpenAI, num_choices: int) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=ASK, stream=True, n=num_choices, stream_options={"include_usage": True}
        )
    )
    assert [choice.delta.role for choice in chunks[0].choices] == ["assistant"] * num_choices
    texts = dict.fromkeys(range(num_choices), "")
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
    assert set(texts.values()) == {"base: how are you"}
    finished = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finished == ["stop"] * num_choices
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert counts(chunks[-1].usage) == (3, 4 * num_choices, 3 + 4 * num_choices)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model="tiny", prompt="a b", stream=True))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "base: a b"
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_the_wire_of_a_stream(url: str) -> None:
    response = post(f"{url}/chat/completions", {"model": "tiny", "messages": ASK, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"


def test_streams_are_billed(client: openai.OpenAI, api: TestClient) -> None:
    list(client.chat.completions.create(model="tiny", messages=ASK, stream=True))
    (record,) = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert (record["function"], record["prompt_tokens"], record["completion_tokens"]) == ("CHAT_COMPLETIONS", 3, 4)


def test_an_engine_that_dies_within_a_stream(client: openai.OpenAI, engine: EchoEngine) -> None:
    engine.dies_after = 2
    stream = client.chat.completions.create(model="tiny", messages=ASK, stream=True)
    texts = [next(stream).choices[0].delta.content for _ in range(3)]
    assert texts == ["", "base:", " how"]
    with pytest.raises(openai.APIError, match="stopped while it answered") as caught:
        next(stream)
    assert caught.value.code == "unavailable"


def test_an_engine_that_dies_before_a_stream_keeps_its_status(client: openai.OpenAI, engine: EchoEngine) -> None:
    engine.dies_after = 0
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="tiny", messages=ASK, stream=True)
    assert (caught.value.status_code, caught.value.code) == (503, "unavailable")


def test_models(client: openai.OpenAI, tuned: str) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"tiny", "LUTHIER.PUBLIC.tuned"}
    assert (listed["tiny"].object, listed["tiny"].owned_by) == ("model", "tests")
    assert client.models.retrieve("tiny").id == "tiny"
    found = client.models.retrieve(tuned)
    assert (found.id, found.owned_by) == ("LUTHIER.PUBLIC.tuned", "admin")
    assert found.model_dump()["root"] == "tiny"


def test_unknown_models(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=ASK)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "Unknown model 'nobody'" in caught.value.message
    for verb in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            verb("nobody")
        assert caught.value.code == "model_not_found"


def test_a_model_that_is_deleted(client: openai.OpenAI, tuned: str) -> None:
    deleted = client.models.delete(tuned)
    assert (deleted.id, deleted.object, deleted.deleted) == ("LUTHIER.PUBLIC.tuned", "model", True)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(tuned)
    with pytest.raises(openai.PermissionDeniedError, match="everybody's"):
        client.models.delete("tiny")


def test_a_model_that_is_still_training(
    client: openai.OpenAI, api: TestClient, faq: str, train: Callable[[str], Path]
) -> None:
    job = create(api).json()
    with pytest.raises(openai.NotFoundError, match=f"not ready: job {job['id']} is making it"):
        client.chat.completions.create(model="tuned", messages=ASK)
    train(job["id"])
    assert client.chat.completions.create(model="tuned", messages=ASK).choices


def test_a_wrong_key(url: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=url, api_key="lt_wrong", max_retries=0).models.list()
    assert caught.value.code == "invalid_api_key"


def test_a_prompt_that_does_not_fit(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="512") as caught:
        client.chat.completions.create(model="tiny", messages=ASK, max_tokens=600)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_what_vllm_takes_beyond_openai(client: openai.OpenAI, engine: EchoEngine) -> None:
    extra = {"repetition_penalty": 1.5, "ignore_eos": True, "logprobs": None}
    client.chat.completions.create(model="tiny", messages=ASK, extra_body=extra)
    client.completions.create(model="tiny", prompt="a b", extra_body=extra)
    client.completions.create(model="tiny", prompt="a b")
    given = [(request.repetition_penalty, request.ignore_eos) for request in engine.requests]
    assert given == [(1.5, True), (1.5, True), (1.0, False)]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b'{"model": "\\ud800"}', b"\xff"])
def test_a_body_that_is_no_request(url: str, body: bytes) -> None:
    error_of(post(f"{url}/chat/completions", body), 400, "invalid_parameter_value")


def test_no_route_and_no_method(url: str) -> None:
    assert f"POST {httpx.URL(url).path}/nothing" in error_of(post(f"{url}/nothing", {}), 404, "not_found")
    refused = httpx.get(f"{url}/chat/completions")
    assert "allowed: POST" in error_of(refused, 405, "method_not_allowed")


def test_a_base_model_that_is_not_served(url: str) -> None:
    response = post(f"{url}/chat/completions", {"model": "smollm2-135m", "messages": ASK})
    assert "serve_base_models" in error_of(response, 404, "model_not_found")
    assert "retry-after" not in response.headers
