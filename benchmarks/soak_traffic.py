"""What the soak's clients do: ask, leave at any moment, stall, send nonsense or too much; and how each may end."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog")
TOKENS = 24
"""Of an answer, at most."""
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
    """One client."""

    def __init__(self, session: aiohttp.ClientSession, doors: Sequence[str], models: Sequence[str], seed: int) -> None:
        self._session, self._doors, self._models, self._chance = session, doors, models, random.Random(seed)

    async def stay(self, seconds: float) -> list[Seen]:
        """Acts one after another for so long; it comes again when it is told to."""
        seen: list[Seen] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (act,) = self._chance.choices(list(ACTS), [weight for _, weight, _ in ACTS.values()])
            try:
                seen.append(await ACTS[act][0](self, act))
            except aiohttp.ClientError as error:
                seen.append(Seen(act, -1, note=repr(error)))
            await asyncio.sleep(min(seen[-1].retry_after, max(0.0, end - time.monotonic())))
        return seen

    async def whole(self, act: str, **given: Any) -> Seen:
        async with self._post(self._body(**given)) as response:
            return await _read(act, response)

    async def streamed(self, act: str) -> Seen:
        async with self._post(self._body(stream=True, stream_options={"include_usage": True})) as response:
            if response.status != 200:
                return await _read(act, response)
            lines = [line async for line in response.content if line.startswith(b"data: {")]
            return _answered(act, response, json.loads(lines[-1].removeprefix(b"data: ")))

    async def leaves(self, act: str) -> Seen:
        """Before a whole answer."""
        try:
            async with asyncio.timeout(self._chance.uniform(0, LEAVE_SECONDS)):
                return await self.whole(act, ignore_eos=True)
        except TimeoutError:
            return Seen(act, LEFT)

    async def leaves_stream(self, act: str) -> Seen:
        async with self._post(self._body(stream=True, ignore_eos=True, max_tokens=256)) as response:
            if response.status != 200:
                return await _read(act, response)
            for _ in range(self._chance.randint(1, 20)):
                await response.content.readline()
            response.close()
            return Seen(act, LEFT)

    async def stalls(self, act: str) -> Seen:
        async with self._post(self._body(stream=True, ignore_eos=True, max_tokens=256)) as response:
            if response.status != 200:
                return await _read(act, response)
            await asyncio.sleep(STALL_SECONDS)
            response.close()
            return Seen(act, LEFT)

    async def cuts_its_body(self, act: str) -> Seen:
        body = json.dumps(self._body())
        address = urlsplit(self._door())
        _reader, writer = await asyncio.open_connection(address.hostname, address.port)
        key = self._session.headers["Authorization"]
        head = f"POST {address.path}/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body[: len(body) // 2]}".encode())
        await writer.drain()
        writer.close()
        return Seen(act, LEFT)

    async def nonsense(self, act: str) -> Seen:
        body = self._chance.choice([{"n": 0}, {"messages": []}, {"wisdom": 9}, {"temperature": "hot"}, {"stop": [1]}])
        return await self.whole(act, **body)

    async def too_long(self, act: str) -> Seen:
        """By its tokens, or by its mere length."""
        content = self._chance.choice(["the fox " * 600, "a" * 500_000])
        return await self.whole(act, messages=[{"role": "user", "content": content}])

    async def unknown(self, act: str) -> Seen:
        return await self.whole(act, model="nobody")

    async def wrong_key(self, act: str) -> Seen:
        async with self._post(self._body(), headers={"Authorization": "Bearer lt_wrong"}) as response:
            return await _read(act, response)

    def _body(self, **given: Any) -> dict[str, Any]:
        words = self._chance.choices(WORDS, k=self._chance.randint(3, 30))
        messages = [{"role": "user", "content": " ".join(words)}]
        return {"model": self._chance.choice(self._models), "messages": messages, "max_tokens": TOKENS, **given}

    def _door(self) -> str:
        return self._chance.choice(self._doors)

    def _post(self, body: dict[str, Any], **given: Any) -> Any:
        return self._session.post(f"{self._door()}/chat/completions", json=body, **given)


Act = Callable[[Visitor, str], Awaitable[Seen]]
ANSWER = {200, 429}
ACTS: dict[str, tuple[Act, int, set[int]]] = {
    "whole": (Visitor.whole, 30, ANSWER),
    "streamed": (Visitor.streamed, 30, ANSWER),
    "leaves before the answer": (Visitor.leaves, 12, {*ANSWER, LEFT}),
    "leaves a stream": (Visitor.leaves_stream, 12, {LEFT, 429}),
    "stalls": (Visitor.stalls, 2, {LEFT, 429}),
    "cuts its body": (Visitor.cuts_its_body, 2, {LEFT}),
    "nonsense": (Visitor.nonsense, 4, {400}),
    "too long": (Visitor.too_long, 4, {400, 429}),
    "unknown model": (Visitor.unknown, 2, {404}),
    "wrong key": (Visitor.wrong_key, 2, {401}),
}
"""Each with how often it is chosen and how it may end."""


async def visit(
    doors: Sequence[str], headers: dict[str, str], models: Sequence[str], num_visitors: int, seconds: float
) -> list[Seen]:
    """What all visitors saw."""
    timeout = aiohttp.ClientTimeout(total=LATEST_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        visitors = [Visitor(session, doors, models, seed) for seed in range(num_visitors)]
        seen = await asyncio.gather(*(visitor.stay(seconds) for visitor in visitors))
    return [each for visits in seen for each in visits]


async def _read(act: str, response: aiohttp.ClientResponse) -> Seen:
    raw = await response.read()
    if response.status == 200:
        return _answered(act, response, json.loads(raw))
    return Seen(
        act,
        response.status,
        retry_after=float(response.headers.get("Retry-After", 0)),
        note=raw.decode(errors="replace")[:200],
    )


def _answered(act: str, response: aiohttp.ClientResponse, last: dict[str, Any]) -> Seen:
    """`last` carries the counts, or is the error that ended a stream."""
    if "error" in last:
        return Seen(act, -1, note=json.dumps(last["error"]))
    usage = last["usage"]
    return Seen(act, 200, response.headers["x-request-id"], usage["prompt_tokens"], usage["completion_tokens"])
