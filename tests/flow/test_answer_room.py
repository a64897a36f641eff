"""Answers to statements are bounded: one, a row of one, and all that a gateway makes or sends at once."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import Message

from luthier.platform.access import hash_key
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import MIB, Settings
from luthier.platform.storage import Storage
from luthier.serve.answer_room import AnswerRoom
from luthier.serve.dialects import sql_body
from luthier.serve.dialects.native_sql import ARROW_STREAM
from tests.factories import KEY, make_settings
from tests.flow.conftest import error_of
from tests.full_disk import full_disk

SQL = "/luthier/v1/sql"
OTHER_KEY = "lut_other_key"
LARGE = {"statement": "SELECT repeat('x', 1000) AS told FROM range(600)"}
TOO_LARGE = {"statement": "SELECT repeat('x', 1000) AS told FROM range(100000000)"}


@pytest.fixture
def settings(home: Path, tiny_model: Path) -> Settings:
    return make_settings(home, tiny_model, max_answer_mib=1, max_answers_mib=2)


@pytest.fixture
def room(app: FastAPI) -> AnswerRoom:
    found: AnswerRoom = app.state.services.answer_room
    return found


@pytest.fixture(params=[sql_body.IN_MEMORY, 1000], ids=["in memory", "in a file"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_body, "IN_MEMORY", request.param)


class Reader:
    """Asks, and takes the answer's rest when it is told to, or leaves."""

    def __init__(self, app: FastAPI) -> None:
        self.began, self._goes_on, self._has_left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.body = b""
        self._sent = [{"type": "http.request", "body": json.dumps(LARGE).encode()}]
        headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": SQL, "headers": headers}
        self._answer = asyncio.create_task(app({**scope, "query_string": b""}, self._receive, self._send))

    async def reads(self) -> None:
        self._goes_on.set()
        await self._answer

    async def leaves(self) -> None:
        self._has_left.set()
        await self._answer

    async def _receive(self) -> Message:
        if not self._sent:
            await self._has_left.wait()
            return {"type": "http.disconnect"}
        return self._sent.pop()

    async def _send(self, message: Message) -> None:
        self.began.set()
        await self._goes_on.wait()
        self.body += message.get("body", b"")


async def ask(app: FastAPI, key: str = KEY) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a", headers=headers) as client:
        return await client.post(SQL, json=LARGE)


@pytest.mark.parametrize("accept", [ARROW_STREAM, "application/json"])
def test_an_answer_has_a_limit(api: TestClient, kept: None, room: AnswerRoom, settings: Settings, accept: str) -> None:
    refused = api.post(SQL, json=TOO_LARGE, headers={"Accept": accept})
    told = error_of(refused, 422, "sql_compilation_error")
    assert told == "The answer has more than 1 MiB: select fewer rows or columns."
    assert room.num_taken == 0
    assert list(Storage(settings.storage).scratch().iterdir()) == []
    assert api.post(SQL, json=LARGE, headers={"Accept": accept}).status_code == 200


@pytest.mark.parametrize("leaves", [False, True], ids=["reads", "leaves"])
def test_an_answer_has_its_room_until_it_is_sent(
    app: FastAPI, room: AnswerRoom, registry: Registry, kept: None, leaves: bool
) -> None:
    registry.access.add_admin_key("other", hash_key(OTHER_KEY), OTHER_KEY[:6])

    async def scene() -> None:
        slow = Reader(app)
        async with asyncio.timeout(20):
            await slow.began.wait()
            assert 600_000 < room.num_taken < MIB
            refused = await ask(app)
            assert error_of(refused, 429, "overloaded").startswith("Too much is answered at once: ")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await ask(app, OTHER_KEY)).status_code == 200
            await (slow.leaves() if leaves else slow.reads())
            assert room.num_taken == 0
            assert leaves or len(json.loads(slow.body)["rows"]) == 600
            assert (await ask(app)).status_code == 200

    asyncio.run(scene())


def test_who_is_cancelled_leaves_no_room_taken(app: FastAPI, room: AnswerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, taken = asyncio.Event(), room.take

    async def scene() -> None:
        loop = asyncio.get_running_loop()

        def take(*args: object) -> None:
            loop.call_soon_threadsafe(has_begun.set)
            asyncio.run_coroutine_threadsafe(may_go.wait(), loop).result()
            taken(*args)

        may_go, gone = asyncio.Event(), asyncio.Event()
        given_back = room.give_back
        monkeypatch.setattr(room, "take", take)
        monkeypatch.setattr(room, "give_back", lambda held: (given_back(held), loop.call_soon_threadsafe(gone.set)))
        asking = asyncio.create_task(ask(app))
        async with asyncio.timeout(20):
            await has_begun.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            may_go.set()
            await gone.wait()
        assert room.num_taken == 0

    asyncio.run(scene())


def test_a_disk_that_takes_no_more_is_said(api: TestClient, room: AnswerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_body, "IN_MEMORY", 1000)
    with full_disk(2**19):
        refused = api.post(SQL, json=LARGE)
    assert "no room for the answer" in error_of(refused, 503, "unavailable")
    assert room.num_taken == 0


def test_a_row_has_a_limit(app: FastAPI, api: TestClient) -> None:
    app.state.services.answer_room.most_mib = 100
    refused = api.post(SQL, json={"statement": "SELECT repeat('x', 17000000)"})
    assert error_of(refused, 422, "sql_compilation_error").startswith("A row of the answer has more than 16 MiB")
    for many in ("ARRAY_AGG(TRUE)", "ARRAY_AGG({'a': 1})"):
        refused = api.post(SQL, json={"statement": f"SELECT {many} FROM RANGE(1100000)"})
        told = error_of(refused, 422, "sql_compilation_error")
        assert told.startswith("A row of the answer has more than 1,048,576 values"), many
