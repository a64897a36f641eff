"""The doors when too much comes, when the ledger is away, when a reader takes nothing; and what they write down."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message

from luthier.platform.access import hash_key
from luthier.platform.metering import UsageRecord
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve import patience
from luthier.serve.admission import Admission
from luthier.serve.api import build_api, build_direct
from luthier.serve.dialects import snowflake_sql
from luthier.serve.engines.engine_metrics import Places
from luthier.serve.metering.access_log import AccessLog
from luthier.serve.services import make_services
from tests.factories import KEY, ledger_of, make_settings
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import CHAT, call, error_of, sql
from tests.waiting import SECONDS

OTHER_KEY = "lt_other_key"
SECRET = "sesame"
MAX_TOKENS = 60_000
WORDS = 5
"""Tokens of the answer to ASK."""
ASK = {"model": "tiny", "messages": [{"role": "user", "content": f"{SECRET} how are you"}]}


@pytest.fixture
def settings(home: Path, tiny_model: Path) -> Settings:
    """One answer at once, three that wait: an account alone gets two of the four places."""
    settings = make_settings(home, tiny_model, max_body_mib=1)
    with (home / "base_models" / "tiny.toml").open("a") as row:
        row.write("max_num_seqs = 1\nmax_queued = 3\n")
    return settings


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine(context=1_000_000)


@pytest.fixture
def log(home: Path) -> AccessLog:
    """It is written when a test says so."""
    return AccessLog(home / "logs" / "access.jsonl")


@pytest.fixture
def app(settings: Settings, registry: Registry, completions: LocalCompletions, log: AccessLog) -> FastAPI:
    return build_api(make_services(settings, registry, completions, access_log=log))


@pytest.fixture
def direct(settings: Settings, registry: Registry, completions: LocalCompletions, log: AccessLog) -> ASGIApp:
    return build_direct(make_services(settings, registry, completions, "tiny", log), "one")


@pytest.fixture(params=["gateway", "direct"])
def door(request: pytest.FixtureRequest, app: FastAPI, direct: ASGIApp) -> ASGIApp:
    return app if request.param == "gateway" else direct


class Crowd:
    """Clients that wait for an engine that hangs, until they leave together."""

    def __init__(self, door: ASGIApp, engine: EchoEngine) -> None:
        self._door, self._engine = door, engine
        self._leaves = asyncio.Event()
        self._calls: list[asyncio.Task[list[Message]]] = []
        engine.hangs_after = 0

    async def grows(self, **given: Any) -> None:
        num = self._engine.num_open + 1
        self._calls.append(asyncio.create_task(call(self._door, self._client(given))))
        while self._engine.num_open < num:
            await asyncio.sleep(0.001)

    async def goes(self) -> None:
        self._leaves.set()
        await asyncio.gather(*self._calls)
        self._engine.hangs_after = None

    def _client(self, given: dict[str, Any]) -> Any:
        messages: list[Message] = [{"type": "http.request", "body": json.dumps({**ASK, **given}).encode()}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await self._leaves.wait()
            return {"type": "http.disconnect"}

        return receive


async def post(door: ASGIApp, key: str = KEY, **given: Any) -> httpx.Response:
    transport = httpx.ASGITransport(door)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://luthier", headers=headers) as client:
        return await client.post(CHAT, json={**ASK, **given})


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_what_is_too_much_is_refused_at_once(
    door: ASGIApp, engine: EchoEngine, registry: Registry, is_streamed: bool
) -> None:
    registry.access.add_admin_key("other", hash_key(OTHER_KEY), OTHER_KEY[:6])

    async def scene() -> None:
        crowd = Crowd(door, engine)
        await crowd.grows(stream=is_streamed)
        await crowd.grows()
        refused = await post(door, stream=is_streamed)
        seconds = refused.headers["retry-after"]
        assert f"2 of them for your account. Try again in {seconds} s." in error_of(refused, 429, "overloaded")
        assert 1 <= int(seconds) <= 30
        engine.hangs_after = None
        assert (await post(door, OTHER_KEY)).status_code == 200
        await crowd.goes()
        assert engine.num_open == 0
        assert (await post(door, stream=is_streamed)).status_code == 200

    asyncio.run(scene())


def test_each_answer_takes_a_place(door: ASGIApp, engine: EchoEngine) -> None:
    async def scene() -> None:
        crowd = Crowd(door, engine)
        await crowd.grows(n=2)
        error_of(await post(door), 429, "overloaded")
        await crowd.goes()
        assert (await post(door, n=2)).status_code == 200

    asyncio.run(scene())


def test_whoever_was_refused_pays_nothing(direct: ASGIApp, engine: EchoEngine, registry: Registry) -> None:
    async def scene() -> None:
        crowd = Crowd(direct, engine)
        await crowd.grows(n=2)
        await post(direct)
        assert records(registry) == []
        await crowd.goes()

    asyncio.run(scene())


Turn = tuple[threading.Event, threading.Event]


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Set when SQL waits for its turn; to be set when it may go on."""
    is_busy, may_go = threading.Event(), threading.Event()

    def pause(_seconds: float) -> Any:
        is_busy.set()
        return asyncio.to_thread(may_go.wait)

    monkeypatch.setattr(patience, "asyncio", SimpleNamespace(sleep=pause))
    return is_busy, may_go


def test_sql_waits_for_its_turn(app: FastAPI, api: TestClient, engine: EchoEngine, turn: Turn) -> None:
    is_busy, may_go = turn

    async def scene() -> str:
        crowd = Crowd(app, engine)
        await crowd.grows(n=2)
        answer = asyncio.create_task(asyncio.to_thread(sql, api, "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'a b')"))
        assert await asyncio.to_thread(is_busy.wait, 20)
        await crowd.goes()
        may_go.set()
        return await answer

    assert asyncio.run(scene()) == "base: a b"


def test_no_more_statements_wait_than_may(
    app: FastAPI,
    api: TestClient,
    engine: EchoEngine,
    registry: Registry,
    turn: Turn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_busy, may_go = turn
    places = Admission(1, 1, words="The gateway is busy: {} statements run or wait")
    monkeypatch.setattr(snowflake_sql, "PLACES", places)
    registry.access.add_admin_key("other", hash_key(OTHER_KEY), OTHER_KEY[:6])
    ask = {"statement": "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'a b')"}

    async def scene() -> str:
        crowd = Crowd(app, engine)
        await crowd.grows(n=2)
        answer = asyncio.create_task(asyncio.to_thread(sql, api, ask["statement"]))
        assert await asyncio.to_thread(is_busy.wait, 20)
        refused = await asyncio.to_thread(api.post, "/luthier/v1/sql", json=ask)
        told = error_of(refused, 429, "overloaded")
        busy = "The gateway is busy: 1 statements run or wait, 1 of them for your account."
        assert told == f"{busy} Try again in {refused.headers['retry-after']} s."
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        others = {"Authorization": f"Bearer {OTHER_KEY}"}
        let_in = await asyncio.to_thread(api.post, "/luthier/v1/sql", json={"statement": "SELECT 1"}, headers=others)
        assert let_in.status_code == 200
        await crowd.goes()
        may_go.set()
        return await answer

    assert asyncio.run(scene()) == "base: a b"
    assert sql(api, "SELECT 1") == 1


def test_nothing_is_done_that_cannot_be_metered(
    door: ASGIApp, completions: LocalCompletions, engine: EchoEngine
) -> None:
    completions.books.is_full = True
    refused = asyncio.run(post(door))
    error_of(refused, 503, "unavailable")
    assert refused.headers["retry-after"] == "2"
    assert engine.requests == []


def records(registry: Registry) -> list[UsageRecord]:
    return ledger_of(registry)


@pytest.fixture
def slow_reader(server: str) -> Iterator[socket.socket]:
    """Asks for more than all buffers hold, and takes nothing."""
    address = httpx.URL(server)
    words = "a " * MAX_TOKENS
    body = json.dumps({"model": "tiny", "prompt": words, "max_tokens": MAX_TOKENS, "stream": True})
    head = f"POST /m/tiny/v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: "
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address.host, address.port))
        client.sendall(f"{head}{len(body)}\r\n\r\n{body}".encode())
        yield client


def test_a_reader_that_takes_nothing_holds_nobody(
    server: str, slow_reader: socket.socket, engine: EchoEngine, registry: Registry
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server, headers=headers, timeout=SECONDS) as client:
        made, others = -1, 0
        # until the slow one has begun, and the other answer alone is made
        while engine.num_made <= others or engine.num_made != made + WORDS:
            made, others = engine.num_made, others + WORDS
            assert client.post(f"/m/tiny{CHAT}", json=ASK).status_code == 200
    assert engine.num_open == 1
    slow_reader.close()
    while not (found := [record for record in records(registry) if record.function == "COMPLETIONS"]):
        pass
    (cut,) = found
    assert cut.prompt_tokens == MAX_TOKENS
    assert 0 < cut.completion_tokens < MAX_TOKENS


def test_what_is_written_down(
    door: ASGIApp, log: AccessLog, completions: LocalCompletions, home: Path, settings: Settings
) -> None:
    async def scene() -> None:
        await post(door)
        await post(door, stream=True)
        await post(door, n=99)
        await post(door, key=f"lt_{SECRET}")

    asyncio.run(scene())
    log.write()
    text = (home / "logs" / "access.jsonl").read_text()
    at_door = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in at_door] == ([200, 200, 400, 401] if isinstance(door, FastAPI) else [400, 401])
    assert [line.get("user") for line in at_door[-2:]] == ["admin", None]
    assert at_door[-1]["error"] == "invalid_api_key"
    assert (at_door[-1]["method"], at_door[-1]["path"]) == ("POST", CHAT)
    whole, streamed = completions.books.lines
    assert (whole["stream"], streamed["stream"]) == (False, True)
    assert whole["id"].startswith("req_")
    for line in (whole, streamed):
        assert line["ms"] >= 0
        told = {name: line[name] for name in ("user", "function", "model", "status", "finish", "completion_tokens")}
        assert told == {
            "user": "admin",
            "function": "CHAT_COMPLETIONS",
            "model": "tiny",
            "status": 200,
            "finish": "stop",
            "completion_tokens": WORDS,
        }
    assert SECRET not in text + json.dumps(completions.books.lines)


def test_how_full_an_engine_is(
    direct: ASGIApp, engine: EchoEngine, registry: Registry, completions: LocalCompletions
) -> None:
    registry.access.add_admin_key("other", hash_key(OTHER_KEY), OTHER_KEY[:6])
    places = Places("tiny", completions.admission("tiny"))

    def counts(key: str = KEY) -> list[str]:
        with TestClient(direct, headers={"Authorization": f"Bearer {key}"}) as client:
            response = client.get("/metrics")
            if response.status_code != 200:
                return [error_of(response, 403, "not_authorized")]
        return [line for line in response.text.splitlines() if line.startswith("luthier_")]

    async def scene() -> None:
        crowd = Crowd(direct, engine)
        await crowd.grows(n=2)
        await post(direct)
        told = await asyncio.to_thread(counts)
        assert 'luthier_sequences{base_model="tiny",replica="one"} 2.0' in told
        assert 'luthier_requests_refused_total{base_model="tiny",replica="one"} 1.0' in told
        assert "the account that runs the platform" in counts(OTHER_KEY)[0]
        await crowd.goes()

    REGISTRY.register(places)
    try:
        asyncio.run(scene())
    finally:
        REGISTRY.unregister(places)


def test_whoever_leaves_is_written_down(direct: ASGIApp, engine: EchoEngine, completions: LocalCompletions) -> None:
    async def scene() -> None:
        crowd = Crowd(direct, engine)
        await crowd.grows()
        await crowd.goes()

    asyncio.run(scene())
    (line,) = completions.books.lines
    assert (line["status"], line["error"], line["prompt_tokens"], line["finish"]) == (499, "client_gone", 4, None)
