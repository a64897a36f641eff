"""One of the soak's clients, at OpenAI's chat: asks, leaves at any moment, stalls, sends nonsense or too much."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog")
CHAT = "/v1/chat/completions"
TOKENS = 24
"""Of an answer, at most."""
NONSENSE: tuple[dict[str, Any], ...] = (
    {"n": 0},
    {"messages": []},
    {"wisdom": 9},
    {"temperature": "hot"},
    {"stop": [1]},
)
LEAVE_SECONDS, STALL_SECONDS = 0.4, 1.0
LATEST_SECONDS = 120.0
LEFT = 0
"""Status of an answer that nobody waited for."""


class Seen(NamedTuple):
    """What came of one act."""

    act: str
    status: int
    id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retry_after: float = 0.0
    note: str = ""


class Visitor:
    def __init__(self, session: aiohttp.ClientSession, url: str, models: Sequence[str], seed: int) -> None:
        self._session, self._url, self._models = session, url, models
        self.chance = random.Random(seed)

    async def whole(self, act: str, **given: Any) -> Seen:
        async with self._chat(**given) as response:
            return await read(act, response)

    async def streamed(self, act: str) -> Seen:
        async with self._chat(stream=True, stream_options={"include_usage": True}) as response:
            if response.status != 200:
                return await read(act, response)
            try:
                lines = [line async for line in response.content if line.startswith(b"data: {")]
            except aiohttp.ClientError as error:
                return Seen(act, -1, response.headers["x-request-id"], note=repr(error))
            return answered(act, response, json.loads(lines[-1].removeprefix(b"data: ")))

    async def leaves(self, act: str) -> Seen:
        """Before a whole answer."""
        try:
            async with asyncio.timeout(self.chance.uniform(0, LEAVE_SECONDS)):
                return await self.whole(act, ignore_eos=True)
        except TimeoutError:
            return Seen(act, LEFT)

    async def leaves_stream(self, act: str) -> Seen:
        async with self._chat(stream=True, ignore_eos=True, max_tokens=256) as response:
            if response.status != 200:
                return await read(act, response)
            for _ in range(self.chance.randint(1, 20)):
                await response.content.readline()
            response.close()
            return Seen(act, LEFT)

    async def stalls(self, act: str) -> Seen:
        async with self._chat(stream=True, ignore_eos=True, max_tokens=256) as response:
            if response.status != 200:
                return await read(act, response)
            await asyncio.sleep(STALL_SECONDS)
            response.close()
            return Seen(act, LEFT)

    async def cuts_its_body(self, act: str) -> Seen:
        body = json.dumps(self.body())
        address = urlsplit(self._url)
        _reader, writer = await asyncio.open_connection(address.hostname, address.port)
        key = self._session.headers["Authorization"]
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body[: len(body) // 2]}".encode())
        await writer.drain()
        writer.close()
        return Seen(act, LEFT)

    async def nonsense(self, act: str) -> Seen:
        return await self.whole(act, **self.chance.choice(NONSENSE))

    async def too_long(self, act: str) -> Seen:
        """By its tokens, or by its mere length."""
        content = self.chance.choice(["the fox " * 600, "a" * 500_000])
        return await self.whole(act, messages=[{"role": "user", "content": content}])

    async def unknown(self, act: str) -> Seen:
        return await self.whole(act, model="nobody")

    async def wrong_key(self, act: str) -> Seen:
        async with self.post(CHAT, self.body(), headers={"Authorization": "Bearer lt_wrong"}) as response:
            return await read(act, response)

    def body(self, **given: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": self.words()}]
        return {"model": self.model(), "messages": messages, "max_tokens": TOKENS, **given}

    def model(self) -> str:
        return self.chance.choice(self._models)

    def words(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=self.chance.randint(3, 30)))

    def post(self, path: str, body: Any = None, **given: Any) -> Any:
        return self._session.post(f"{self._url}{path}", json=body, **given)

    def get(self, path: str) -> Any:
        return self._session.get(f"{self._url}{path}")

    def _chat(self, **given: Any) -> Any:
        return self.post(CHAT, self.body(**given))


async def read(act: str, response: aiohttp.ClientResponse) -> Seen:
    raw = await response.read()
    if response.status == 200:
        return answered(act, response, json.loads(raw))
    return Seen(
        act,
        response.status,
        response.headers.get("x-request-id", ""),
        retry_after=float(response.headers.get("Retry-After", 0)),
        note=raw.decode(errors="replace")[:200],
    )


def answered(act: str, response: aiohttp.ClientResponse, last: dict[str, Any]) -> Seen:
    """`last` carries the counts, or is the error that ended a stream."""
    if "error" in last:
        return Seen(act, -1, response.headers["x-request-id"], note=json.dumps(last["error"]))
    usage = last["usage"]
    return Seen(act, 200, response.headers["x-request-id"], usage["prompt_tokens"], usage["completion_tokens"])
