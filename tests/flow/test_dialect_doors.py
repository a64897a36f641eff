"""A completion is answered alike by the gateway and by a replica's own door, whose way is shorter, in every dialect."""

import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from luthier.platform.registry.registry import Registry
from luthier.serve.haproxy_shim import COMPLETIONS
from tests.factories import KEY, ledger_of

INVOCATIONS = "/serving-endpoints/{model}/invocations"
PATHS = [*COMPLETIONS, INVOCATIONS]
ASKED = {"messages": [{"role": "user", "content": "how are you"}], "prompt": "how are you"}
DRAWN = re.compile(r'"(id|request_id|created)": ?("[^"]*"|\d+)')
HEADERS = ("content-type", "luthier-base-model", "luthier-model-version", "retry-after")


@pytest.fixture
def clients(api: TestClient, direct: ASGIApp) -> list[TestClient]:
    return [api, TestClient(direct, headers={"Authorization": f"Bearer {KEY}"})]


def answered(client: TestClient, path: str, model: str = "tiny", raw: bytes = b"", **more: Any) -> Any:
    """Status, headers and body, without what is drawn anew for each request."""
    keep = {"messages"} if "chat" in path or "inference" in path or path == INVOCATIONS else {"prompt"}
    said = {key: value for key, value in ASKED.items() if key in keep}
    body = raw or json.dumps(said | ({} if path == INVOCATIONS else {"model": model}) | more).encode()
    answer = client.post(path.format(model=model), content=body)
    headers = {name: answer.headers.get(name) for name in HEADERS}
    return answer.status_code, headers, DRAWN.sub("", answer.text)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_answers(clients: list[TestClient], registry: Registry, path: str, stream: bool) -> None:
    gateway, direct = (answered(client, path, stream=stream) for client in clients)
    assert gateway == direct
    assert (gateway[0], gateway[1]["luthier-base-model"]) == (200, "tiny")
    first, second = (record.model_dump(exclude={"source_id", "time"}) for record in ledger_of(registry))
    assert first == second


@pytest.mark.parametrize("path", PATHS)
def test_tuned_models(clients: list[TestClient], tuned: str, path: str) -> None:
    gateway, direct = (answered(client, path, tuned) for client in clients)
    assert gateway == direct
    assert (gateway[0], gateway[1]["luthier-model-version"]) == (200, "1")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "more",
    [{"raw": b"{"}, {"raw": b"[]"}, {"model": "nobody"}, {"max_tokens": -1}, {"temperature": 9}, {"messages": 1}],
    ids=str,
)
def test_refusals(clients: list[TestClient], path: str, more: dict[str, Any]) -> None:
    gateway, direct = (answered(client, path, **more) for client in clients)
    assert gateway == direct
    assert 400 <= gateway[0] < 500


@pytest.mark.parametrize("path", PATHS)
def test_strangers(clients: list[TestClient], path: str) -> None:
    for client in clients:
        client.headers["authorization"] = "Bearer wrong"
    gateway, direct = (answered(client, path) for client in clients)
    assert gateway == direct
    assert gateway[0] == 401
