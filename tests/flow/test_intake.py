"""What comes in, through the doors: strangers, endless and slow bodies, many small things, and all of it at once."""

import asyncio
import gc
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from luthier.platform.access import hash_key
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import MIB, Settings
from luthier.serve.doors.bodies import ChatBody
from luthier.serve.doors.intake import LINGER_BYTES, SMALL
from luthier.serve.doors.json_size import MAX_NAMES
from luthier.serve.doors.refusals import read_body
from tests.factories import KEY, make_settings
from tests.fakes import EchoEngine
from tests.flow.conftest import CHAT, call
from tests.waiting import SECONDS

INVOCATION = "/serving-endpoints/tiny/invocations"
INFERENCE = "/api/v2/cortex/inference:complete"
OTHER_KEY = "lt_other_key"
MESSAGE = {"role": "user", "content": "a"}
HALF = 300 << 10
"""More than half of what an account may have here."""
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "a" * HALF}]}


@pytest.fixture
def settings(home: Path, tiny_model: Path) -> Settings:
    return make_settings(home, tiny_model, max_body_mib=16, max_bodies_mib=1, reader_timeout_s=1)


@pytest.fixture
def patient(app: FastAPI) -> None:
    """It waits for a body as long as the scene takes."""
    intake = app.state.intake
    intake.settings = intake.settings.model_copy(update={"reader_timeout_s": 60})


@pytest.fixture(params=["gateway", "direct"])
def door(request: pytest.FixtureRequest, app: FastAPI, direct: ASGIApp) -> ASGIApp:
    return app if request.param == "gateway" else direct


def client_of(door: ASGIApp, key: str = KEY) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://luthier", headers=headers)


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code, in the words of whichever dialect."""
    body = answer.json()
    return answer.status_code, body["error"]["code"] if "error" in body else body["error_code"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        *((path, "invalid_api_key") for path in (CHAT, "/v1/batches", "/v1/files", INFERENCE)),
        *((path, "invalid_api_key") for path in ("/luthier/v1/sql", "/luthier/v1/models")),
        *((path, "UNAUTHENTICATED") for path in (INVOCATION, "/serving-endpoints/chat/completions")),
    ],
)
def test_no_byte_of_a_strangers_is_read(app: FastAPI, path: str, code: str) -> None:
    async def receive() -> Message:
        raise AssertionError("the body is read")

    start, *parts = asyncio.run(call(app, receive, path, "lt_nobody"))
    assert start["status"] == 401
    assert code in b"".join(part["body"] for part in parts).decode()


@pytest.mark.parametrize("path", ["/luthier/v1/sql", "/m/tiny/v1/chat/completions"])
@pytest.mark.parametrize("is_patient", [True, False], ids=["waits for the answer", "sends first"])
def test_a_stranger_reads_that_he_is_one(server: str, path: str, is_patient: bool) -> None:
    address, body = httpx.URL(server), b" " * (8 * MIB)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=SECONDS) as client:
        client.sendall(head.encode())
        first = client.recv(65_536) if is_patient else b""
        client.sendall(body)
        answer = b"".join([first, *iter(lambda: client.recv(65_536), b"")])
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer.lower()
    assert b"invalid_api_key" in answer


@pytest.mark.parametrize(
    ("path", "code"),
    [
        *((path, "request_too_large") for path in (CHAT, INFERENCE, "/luthier/v1/sql")),
        (INVOCATION, "REQUEST_TOO_LARGE"),
    ],
)
def test_many_small_messages_are_read_no_further_than_needed(app: FastAPI, path: str, code: str) -> None:
    message, num_sent = json.dumps(MESSAGE).encode() + b",", 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_sent
        yield b'{"model": "tiny", "messages": ['
        while True:
            num_sent += 1_000
            yield message * 1_000

    async def scene() -> httpx.Response:
        async with client_of(app) as client:
            return await client.post(path, content=endless())

    answer = asyncio.run(scene())
    assert told(answer) == (413, code)
    assert "names and brackets" in answer.text
    assert num_sent < MAX_NAMES // 3 + 2_000 + LINGER_BYTES // len(message)


def seconds_to_read(body: bytes) -> float:
    began = time.thread_time()
    read_body(ChatBody, body).request()
    return time.thread_time() - began


def test_the_longest_conversation_holds_nobody_up(door: ASGIApp) -> None:
    """While it is read, the loop turns: by the time of its own thread, whatever else the machine does."""
    body = json.dumps({"model": "tiny", "messages": [MESSAGE] * 10_000}).encode()
    at_once = min(seconds_to_read(body) for _ in range(3))

    async def longest_turn() -> float:
        longest, before, asking = 0.0, time.thread_time(), asyncio.create_task(ask())
        while not asking.done():
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
        assert (await asking).status_code == 200
        return longest

    async def ask() -> httpx.Response:
        async with client_of(door) as client:
            return await client.post(CHAT, content=body)

    assert min(asyncio.run(longest_turn()) for _ in range(3)) < at_once / 2


class Sender:
    """Begins to send a body, and goes on when it is told to."""

    def __init__(self, app: ASGIApp) -> None:
        self._body, self._goes_on, self._has_left = json.dumps(ASK).encode(), asyncio.Event(), False
        self._pieces = [self._body[at : at + SMALL] for at in range(0, len(self._body), SMALL)]
        self.answer = asyncio.create_task(call(app, self._receive))

    def ends(self, leaves: bool = False) -> Awaitable[list[Message]]:
        self._has_left = leaves
        self._goes_on.set()
        return self.answer

    async def _receive(self) -> Message:
        if len(self._pieces) == 1:
            await self._goes_on.wait()
        if self._has_left or not self._pieces:
            return {"type": "http.disconnect"}
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("leaves", [False, True], ids=["is answered", "leaves"])
def test_what_has_no_room_comes_again(app: FastAPI, registry: Registry, patient: None, leaves: bool) -> None:
    registry.access.add_admin_key("other", hash_key(OTHER_KEY), OTHER_KEY[:6])
    room = app.state.intake.room

    async def scene() -> None:
        sender = Sender(app)
        await until(lambda: room.num_taken > HALF - SMALL)
        async with client_of(app) as client, client_of(app, OTHER_KEY) as other:
            refused = await client.post(CHAT, json=ASK)
            assert told(refused) == (429, "overloaded")
            assert 1 <= int(refused.headers["retry-after"]) <= 30
            assert "of them for your account" in refused.text
            assert told(await client.post(INVOCATION, json=ASK)) == (429, "REQUEST_LIMIT_EXCEEDED")
            assert (await client.post(CHAT, json={**ASK, "messages": [MESSAGE]})).status_code == 200
            assert (await other.post(CHAT, json=ASK)).status_code == 200
            sent = await sender.ends(leaves)
            assert [message["status"] for message in sent[:1]] == ([] if leaves else [200])
            assert room.num_taken == 0
            assert (await client.post(CHAT, json=ASK)).status_code == 200

    asyncio.run(scene())


def test_a_prompt_that_is_read_keeps_no_room(app: FastAPI, engine: EchoEngine, patient: None) -> None:
    """More streams than bodies have room beside each other, each before its first piece."""
    engine.hangs_after = 0

    async def scene() -> None:
        async with client_of(app) as client:
            for _ in range(3):
                asking.append(asyncio.create_task(client.post(CHAT, json={**ASK, "stream": True})))
                await until(lambda: engine.num_hanging == len(asking) or asking[-1].done())
            assert (engine.num_hanging, app.state.intake.room.num_taken) == (3, 0)
            gc.collect()
            assert not [each for each in gc.get_objects() if type(each) is ChatBody]
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    asking: list[asyncio.Task[httpx.Response]] = []
    asyncio.run(scene())


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "in chunks"])
def test_one_alone_sends_more_than_he_may_ever_have_here(app: FastAPI, is_declared: bool) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a" * MIB}]}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), SMALL):
            yield body[at : at + SMALL]

    async def scene() -> httpx.Response:
        async with client_of(app) as client:
            return await client.post(CHAT, content=body if is_declared else pieces())

    assert asyncio.run(scene()).status_code == 200
    assert app.state.intake.room.num_taken == 0


def test_a_slow_sender_is_cut_off(door: ASGIApp) -> None:
    async def scene() -> list[Message]:
        return await Sender(door).answer

    start, *parts = asyncio.run(scene())
    assert start["status"] == 408
    assert json.loads(b"".join(part["body"] for part in parts))["error"]["code"] == "request_timeout"


def test_room_is_given_back_by_whoever_is_slow(app: FastAPI) -> None:
    async def scene() -> None:
        slow = Sender(app)
        await until(lambda: app.state.intake.room.num_taken > 0)
        assert (await slow.answer)[0]["status"] == 408
        assert app.state.intake.room.num_taken == 0

    asyncio.run(scene())
