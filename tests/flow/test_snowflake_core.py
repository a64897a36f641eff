"""Cortex REST with Snowflake's own client, snowflake.core. Its sign-in, the SQL driver's, is stood in for."""

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from snowflake.core import Root
from snowflake.core.cortex.inference_service import CompleteRequest, CortexInferenceService
from snowflake.core.exceptions import APIError
from snowflake.core.rest import SSEClient

from tests.factories import KEY
from tests.fakes import EchoEngine

ASK = [{"role": "user", "content": "how are you"}]


class Cursor:
    """Answers the one statement that the client asks when it starts: no parameter is set otherwise."""

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: str) -> "Cursor":
        assert statement == "SELECT SYSTEM$CLIENT_VERSION_INFO()"
        return self

    def fetchone(self) -> tuple[str]:
        return ("[]",)


def client_of(url: str, key: str) -> CortexInferenceService:
    place = urlsplit(url)
    rest = SimpleNamespace(_protocol="http", _host=place.hostname, _port=place.port, token=key)
    connection = SimpleNamespace(
        rest=rest, cursor=Cursor, _session_parameters={}, telemetry_enabled=False, _telemetry=None
    )
    return Root(SimpleNamespace(_conn=SimpleNamespace(_conn=connection))).cortex_inference_service


@pytest.fixture
def client(server: str) -> CortexInferenceService:
    return client_of(server, KEY)


def asking(**given: Any) -> CompleteRequest:
    return CompleteRequest.from_dict({"model": "tiny", "messages": ASK, **given})


def data_of(answer: SSEClient) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in answer.events()]


def test_it_streams(client: CortexInferenceService) -> None:
    *pieces, last = data_of(client.complete(asking()))
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == "base: how are you"
    assert pieces[-1]["choices"][0]["finish_reason"] == "stop"
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_it_takes_a_whole_answer(client: CortexInferenceService) -> None:
    (answer,) = data_of(client.complete(asking(stream=False)))
    assert answer["choices"][0]["message"]["content"] == "base: how are you"
    assert answer["usage"]["total_tokens"] == 7


def test_a_later_answer(client: CortexInferenceService) -> None:
    pieces = data_of(client.complete_async(asking()).result())
    assert pieces[0]["choices"][0]["delta"]["type"] == "text"


def test_structured_output(client: CortexInferenceService, engine: EchoEngine) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    data_of(client.complete(asking(response_format={"type": "json", "schema": schema})))
    assert engine.requests[-1].json_schema == schema


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"model": "nosuch"}, 400, "unknown model"),
        ({"guardrails": {"enabled": True}}, 400, "guardrails"),
        ({"temperature": 7.0}, 400, "temperature"),
    ],
)
def test_a_refusal_is_read(client: CortexInferenceService, given: dict[str, Any], status: int, words: str) -> None:
    with pytest.raises(APIError) as caught:
        client.complete(asking(**given))
    assert caught.value.status == status
    assert words in str(caught.value.body).lower()


def test_a_wrong_key(server: str) -> None:
    with pytest.raises(APIError) as caught:
        client_of(server, KEY + "x").complete(asking())
    assert caught.value.status == 401
