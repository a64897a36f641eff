"""Databricks' model serving, with databricks-sdk and MLflow's deployments as they are."""

import json
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import (
    DatabricksError,
    InvalidParameterValue,
    PermissionDenied,
    ResourceDoesNotExist,
    Unauthenticated,
)
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole, EndpointStateReady
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from starlette.requests import Request
from starlette.testclient import TestClient

from luthier.errors import BaseModelRetired, Conflict, LuthierError, NotServed, Overloaded, Unavailable
from luthier.platform.registry.registry import Registry
from luthier.serve.dialects.databricks import refusal
from tests.factories import ADMIN, KEY
from tests.fakes import EchoEngine
from tests.flow.test_keys import made

SERVING = "/serving-endpoints"
ENDPOINTS = f"/api/2.0{SERVING}"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "how are you"}]}
ASKED = [ChatMessage(role=ChatMessageRole.USER, content="how are you")]


def workspace(url: str, key: str = KEY) -> WorkspaceClient:
    return WorkspaceClient(host=url, token=key)


@pytest.fixture
def client(server: str) -> WorkspaceClient:
    return workspace(server)


@pytest.fixture
def deployed(server: str, monkeypatch: pytest.MonkeyPatch) -> BaseDeploymentClient:
    monkeypatch.setenv("DATABRICKS_HOST", server)
    monkeypatch.setenv("DATABRICKS_TOKEN", KEY)
    return get_deploy_client("databricks")


def refused(response: Any, status: int, error_code: str, code: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    message: str = body.pop("message")
    assert body == {"error_code": error_code, "code": code}
    assert response.headers["x-request-id"].startswith("req_")
    return message


@pytest.mark.parametrize("name", ["tuned", "luthier.public.tuned", "LUTHIER.PUBLIC.tuned@1", '"TUNED"'])
def test_the_sdk_asks_an_endpoint(client: WorkspaceClient, tuned: str, name: str) -> None:
    answer = client.serving_endpoints.query(name, messages=ASKED, max_tokens=2, temperature=0.5, n=1, stop=["x"])
    assert answer.choices
    assert answer.choices[0].message
    assert answer.choices[0].message.content == "LUTHIER.PUBLIC.tuned: how"
    assert (answer.model, answer.usage and answer.usage.total_tokens) == (name, 5)


def test_the_sdk_asks_for_a_completion(client: WorkspaceClient) -> None:
    answer = client.serving_endpoints.query("tiny", prompt=["how are you", "well"])
    assert [choice.text for choice in answer.choices or ()] == ["base: how are you", "base: well"]


def test_the_sdk_reads_the_list(client: WorkspaceClient, tuned: str) -> None:
    base, own = client.serving_endpoints.list()
    assert [base.name, own.name] == ["tiny", "LUTHIER.PUBLIC.tuned"]
    one = client.serving_endpoints.get("tuned")
    assert (one.name, one.creator, one.creation_timestamp) == (own.name, own.creator, own.creation_timestamp)
    assert one.state
    assert one.state.ready is EndpointStateReady.READY
    assert own.config
    assert own.config.served_entities
    (served,) = own.config.served_entities
    assert (served.entity_name, served.entity_version) == ("LUTHIER.PUBLIC.tuned", "1")
    assert client.serving_endpoints.get("tiny").config


def test_mlflow_asks_an_endpoint(deployed: Any, tuned: str) -> None:
    assert [each["name"] for each in deployed.list_endpoints()] == ["tiny", "LUTHIER.PUBLIC.tuned"]
    assert deployed.get_endpoint("tiny")["task"] == "llm/v1/chat"
    answer = deployed.predict(endpoint="tuned", inputs=ASK)
    assert answer["choices"][0]["message"]["content"] == "LUTHIER.PUBLIC.tuned: how are you"
    pieces = list(deployed.predict_stream(endpoint="tuned", inputs=ASK))
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in pieces) == (
        "LUTHIER.PUBLIC.tuned: how are you"
    )


@pytest.mark.parametrize("path", [f"{SERVING}/tiny/invocations", f"{SERVING}/chat/completions"])
def test_a_stream_is_openais(api: TestClient, path: str) -> None:
    response = api.post(path, json={"model": "tiny", **ASK, "stream": True, "stream_options": {"include_usage": True}})
    *lines, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert (response.headers["content-type"], last) == ("text/event-stream; charset=utf-8", "[DONE]")
    assert json.loads(lines[-1])["usage"]["total_tokens"] == 7


def test_a_prompt_of_another_route(api: TestClient) -> None:
    answer = api.post(f"{SERVING}/completions", json={"model": "tiny", "prompt": "hello"}).json()
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "base: hello")


def test_answers_are_billed_by_route(api: TestClient) -> None:
    for path, body in ((f"{SERVING}/chat/completions", ASK), (f"{SERVING}/completions", {"prompt": "a"})):
        assert api.post(path, json={"model": "tiny", **body}).status_code == 200
    assert api.post(f"{SERVING}/tiny/invocations", json={"model": "tiny", **ASK}).status_code == 200
    rows = api.get("/luthier/v1/usage/completions", params={"group_by": "function"}).json()["usage"]
    told = {row["function"]: row["records"] for row in rows}
    assert told == {f"DATABRICKS_{each}": 1 for each in ("CHAT_COMPLETIONS", "COMPLETIONS", "INVOCATIONS")}


def test_the_sdk_reads_errors(client: WorkspaceClient, api: TestClient, registry: Registry) -> None:
    ask = client.serving_endpoints.query
    with pytest.raises(ResourceDoesNotExist, match="Unknown model 'nobody'"):
        ask("nobody", messages=ASKED)
    with pytest.raises(ResourceDoesNotExist, match="not served here"):
        ask("smollm2-135m", messages=ASKED)
    with pytest.raises(ResourceDoesNotExist):
        client.serving_endpoints.get("nobody")
    with pytest.raises(InvalidParameterValue, match="Missing required parameter: 'messages'"):
        ask("tiny", inputs={"a": [1]})
    with pytest.raises(InvalidParameterValue, match="usage_context"):
        ask("tiny", messages=ASKED, usage_context={"a": "b"})
    registry.credits.limit(ADMIN, "main")
    with pytest.raises(DatabricksError, match="0 credits available") as caught:
        ask("tiny", messages=ASKED)
    assert caught.value.error_code == "INSUFFICIENT_CREDITS"


def test_the_sdk_reads_that_a_key_is_not_let_in(server: str, api: TestClient) -> None:
    with pytest.raises(Unauthenticated):
        workspace(server, "lt_wrong").serving_endpoints.query("tiny", messages=ASKED)
    key = workspace(server, made(api, endpoints=["completions"])["key"])
    assert key.serving_endpoints.query("tiny", messages=ASKED)
    with pytest.raises(PermissionDenied, match="not for models"):
        key.serving_endpoints.list()
    other = workspace(server, made(api, models=["other"])["key"]).serving_endpoints
    with pytest.raises(PermissionDenied, match="not for model tiny"):
        other.query("tiny", messages=ASKED)
    with pytest.raises(PermissionDenied, match="not for model tiny"):
        other.get("tiny")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 10_000, "not valid JSON"),
        (b'{"prompt": 1}', "prompt"),
        (json.dumps({**ASK, "model": "tuned"}).encode(), "Invalid 'model': the path asks endpoint tiny; leave it out."),
        (json.dumps({**ASK, "prompt": "a"}).encode(), "Unknown parameter: 'messages'"),
    ],
)
def test_what_is_refused(api: TestClient, engine: EchoEngine, body: bytes, words: str) -> None:
    response = api.post(f"{SERVING}/tiny/invocations", content=body)
    assert response.status_code == 400
    assert response.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert words in response.json()["message"]
    assert engine.requests == []


def test_what_is_no_route(api: TestClient) -> None:
    assert "No route" in refused(api.get(f"{SERVING}/tiny/nothing"), 404, "RESOURCE_DOES_NOT_EXIST", "not_found")
    told = refused(api.post(ENDPOINTS, json={}), 405, "METHOD_NOT_ALLOWED", "method_not_allowed")
    assert "allowed: GET" in told


@pytest.mark.parametrize(
    ("error", "status", "error_code", "wait"),
    [
        (Overloaded("a", retry_after=7), 429, "REQUEST_LIMIT_EXCEEDED", "7"),
        (Unavailable("a"), 503, "TEMPORARILY_UNAVAILABLE", "2"),
        (NotServed("a"), 404, "RESOURCE_DOES_NOT_EXIST", None),
        (Conflict("a"), 409, "RESOURCE_CONFLICT", None),
        (BaseModelRetired("a"), 410, "BASE_MODEL_RETIRED", None),
        (LuthierError("a"), 500, "INTERNAL_ERROR", None),
    ],
)
def test_errors_in_their_words(error: LuthierError, status: int, error_code: str, wait: str | None) -> None:
    answer = refusal(Request({"type": "http", "state": {"id": "req_1"}}), error)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, wait)
    assert json.loads(bytes(answer.body)) == {"error_code": error_code, "message": "a", "code": error.code}
