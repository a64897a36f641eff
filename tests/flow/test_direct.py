"""The doors of OpenAI's protocol as bare ASGI: clients that leave, endless bodies, faults, and what goes out when."""

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from luthier.cli.front import instruct
from luthier.platform.base_models import load_catalog
from luthier.platform.registry.registry import Registry
from luthier.platform.request_ids import front_file, front_secret
from luthier.platform.settings import Settings
from luthier.serve.api import build_api, build_direct
from luthier.serve.haproxy_shim import REQUEST_ID
from luthier.serve.services import make_services
from tests.factories import KEY, ledger_of, make_finished, make_job
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import CHAT, call, error_of

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "how are you"}]}


@pytest.fixture(params=["gateway", "direct"])
def door(request: pytest.FixtureRequest, app: FastAPI, direct: ASGIApp) -> ASGIApp:
    return app if request.param == "gateway" else direct


def client_of(body: bytes, leaves: Callable[[], bool]) -> Callable[[], Any]:
    """Sends its body, then leaves when it is time."""
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        while not messages and not leaves():
            await asyncio.sleep(0.001)
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive


def counts(registry: Registry) -> list[tuple[int, int]]:
    records = ledger_of(registry)
    return [(record.prompt_tokens, record.completion_tokens) for record in records]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_client_that_leaves_ends_the_generation(
    door: ASGIApp, engine: EchoEngine, registry: Registry, is_streamed: bool
) -> None:
    engine.hangs_after = 2
    body = json.dumps({**ASK, "stream": is_streamed}).encode()
    sent = asyncio.run(call(door, client_of(body, lambda: engine.num_open == 1)))
    assert engine.num_open == 0
    assert counts(registry) == [(3, 2)]
    assert bool(sent) == is_streamed


def test_the_doors_of_a_renewed_cluster_know_its_new_secret(
    settings: Settings, registry: Registry, completions: LocalCompletions
) -> None:
    file = front_file(settings.home)
    file.parent.mkdir()
    file.write_text("{}")  # by a Luthier that had no secret
    instruct(settings, load_catalog(settings), "/bin/echo")
    told = f"{front_secret(settings.home)} 1700000000000 {uuid.uuid4()}"
    services = make_services(settings, registry, completions, "tiny")
    clients = [TestClient(build(services), headers={REQUEST_ID: told}) for build in (build_api, build_direct)]
    answers = [answer for client in clients for answer in (client.post(CHAT), client.get("/v1/models"))]
    assert {answer.headers["x-request-id"][:16] for answer in answers} == {"req_018bcfe56800"}


def test_a_client_that_leaves_before_its_body_is_there(door: ASGIApp, engine: EchoEngine) -> None:
    parts: list[Message] = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return parts.pop()

    assert asyncio.run(call(door, receive)) == []
    assert engine.requests == []


def test_a_server_that_stops_ends_the_generation(door: ASGIApp, engine: EchoEngine, registry: Registry) -> None:
    async def stopped() -> None:
        engine.hangs_after = 1
        task = asyncio.create_task(call(door, client_of(json.dumps(ASK).encode(), lambda: False)))
        while not engine.num_open:
            assert not task.done()
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    assert engine.num_open == 0
    assert counts(registry) == [(3, 1)]


def test_the_role_goes_out_with_the_first_token(door: ASGIApp) -> None:
    body = json.dumps({**ASK, "stream": True}).encode()
    start, *parts = asyncio.run(call(door, client_of(body, lambda: False)))
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert [part["body"].count(b"data: ") for part in parts] == [2, 1, 1, 1, 1, 0]
    assert [part.get("more_body", False) for part in parts] == [True] * 5 + [False]


def test_a_whole_answer_goes_out_at_once(door: ASGIApp) -> None:
    start, part = asyncio.run(call(door, client_of(json.dumps(ASK).encode(), lambda: False)))
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(part["body"])
    assert headers[b"x-request-id"].startswith(b"req_")
    assert json.loads(part["body"])["id"] == "chatcmpl-" + headers[b"x-request-id"].decode().removeprefix("req_")


def test_a_body_is_read_no_further_than_its_limit(door: ASGIApp) -> None:
    num_read = 0

    async def receive() -> Message:
        nonlocal num_read
        num_read += 1
        return {"type": "http.request", "body": b" " * 65_536, "more_body": True}

    sent = asyncio.run(call(door, receive))
    assert sent[0]["status"] == 413
    assert num_read == 17


def test_no_body_is_read_without_a_key(direct: ASGIApp) -> None:
    response = TestClient(direct).post(CHAT, content=b"{", headers={"Authorization": "Bearer wrong"})
    error_of(response, 401, "invalid_api_key")


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_fault_of_ours_says_which_request(
    door: ASGIApp, completions: LocalCompletions, monkeypatch: pytest.MonkeyPatch, is_streamed: bool
) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(completions, "stream" if is_streamed else "whole", break_down)
    client = TestClient(door, raise_server_exceptions=False, headers={"Authorization": f"Bearer {KEY}"})
    message = error_of(client.post(CHAT, json={**ASK, "stream": is_streamed}), 500, "internal_error")
    assert "req_" in message
    assert "secret" not in message
    with pytest.raises(ZeroDivisionError):
        TestClient(door, headers={"Authorization": f"Bearer {KEY}"}).post(CHAT, json={**ASK, "stream": is_streamed})


def test_a_model_of_another_base_is_answered_too(
    settings: Settings, registry: Registry, completions: LocalCompletions
) -> None:
    """HAProxy may send it here: it learns where models stand from answers."""
    registry.jobs.submit(make_job("ft_1", "LUTHIER.PUBLIC.ELSEWHERE", base_model="smollm2-135m"))
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished())
    both = settings.model_copy(update={"serve_base_models": ("tiny", "smollm2-135m")})
    direct = build_direct(make_services(both, registry, completions, "tiny"))
    with TestClient(direct, headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["tiny"]
        for model, base_model in (("smollm2-135m", "smollm2-135m"), ("elsewhere", "smollm2-135m"), ("tiny", "tiny")):
            answered = client.post(CHAT, json={**ASK, "model": model})
            assert (answered.status_code, answered.headers["luthier-base-model"]) == (200, base_model)
        error_of(client.get("/v1/models/elsewhere"), 404, "model_not_found")


def test_a_base_model_that_comes_and_goes_while_the_replica_runs(
    settings: Settings, registry: Registry, completions: LocalCompletions
) -> None:
    served: set[str] = set()

    async def is_served(base_model: str) -> bool:
        return base_model in served

    services = replace(make_services(settings, registry, completions, "tiny"), is_served=is_served)
    other = {**ASK, "model": "smollm2-135m"}
    with TestClient(build_direct(services), headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert "not served here" in error_of(client.post(CHAT, json=other), 404, "model_not_found")
        served.add("smollm2-135m")
        assert client.post(CHAT, json=other).headers["luthier-base-model"] == "smollm2-135m"
        served.clear()
        error_of(client.post(CHAT, json=other), 404, "model_not_found")
        assert client.post(CHAT, json=ASK).status_code == 200
