"""All that the soak's clients do, how often, and how it may end. Doors beside OpenAI's chat have a small act each."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import aiohttp

from benchmarks.soak_traffic import LATEST_SECONDS, LEFT, TOKENS, Seen, Visitor, answered, read

POLL_SECONDS = 0.5
ENDED = ("completed", "failed", "expired", "cancelled")
PLAIN = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "plain", "schema": PLAIN}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": PLAIN}}


async def several(visitor: Visitor, act: str) -> Seen:
    return await visitor.whole(act, n=3)


async def keeps_to_a_schema(visitor: Visitor, act: str) -> Seen:
    return await visitor.whole(act, response_format=FORMAT)


async def calls_a_tool(visitor: Visitor, act: str) -> Seen:
    return await visitor.whole(act, tools=[TOOL], tool_choice="required")


async def completes_several(visitor: Visitor, act: str) -> Seen:
    body = {"model": visitor.model(), "prompt": [visitor.words() for _ in range(3)], "max_tokens": TOKENS}
    return await _asked(visitor, act, "/v1/completions", body)


async def cortex(visitor: Visitor, act: str) -> Seen:
    return await _asked(visitor, act, "/api/v2/cortex/inference:complete", visitor.body(stream=False))


async def databricks(visitor: Visitor, act: str) -> Seen:
    body = visitor.body()
    return await _asked(visitor, act, f"/serving-endpoints/{body.pop('model')}/invocations", body)


async def sql(visitor: Visitor, act: str) -> Seen:
    history = f"[{{'role': 'user', 'content': '{visitor.words()}'}}]"
    call = f"SNOWFLAKE.CORTEX.COMPLETE('{visitor.model()}', {history}, {{'max_tokens': {TOKENS}}})"
    async with visitor.post("/luthier/v1/sql", {"statement": f"SELECT {call}"}) as response:
        if response.status != 200:
            return await read(act, response)
        ((told,),) = (await response.json())["rows"]
        seen = answered(act, response, json.loads(told))
        return seen._replace(id=f"{seen.id}-0")


async def batch(visitor: Visitor, act: str) -> Seen:
    """Of one line: who sends it looks now and then."""
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": visitor.body()}
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", json.dumps(line).encode(), filename="soak.jsonl")
    async with visitor.post("/v1/files", data=form) as response:
        file = await response.json()
    given = {"input_file_id": file["id"], "endpoint": line["url"], "completion_window": "24h"}
    async with visitor.post("/v1/batches", given) as response:
        if response.status != 200:
            return await read(act, response)
        told = await response.json()
    end = time.monotonic() + LATEST_SECONDS
    while told["status"] not in ENDED:
        if time.monotonic() > end:
            return Seen(act, -1, note=json.dumps(told))
        await asyncio.sleep(POLL_SECONDS)
        async with visitor.get(f"/v1/batches/{told['id']}") as response:
            told = await response.json()
    return await _line(visitor, act, told)


async def _line(visitor: Visitor, act: str, told: dict[str, Any]) -> Seen:
    """What came of it."""
    if told["status"] != "completed" or not told["output_file_id"]:
        return Seen(act, -1, note=json.dumps(told))
    async with visitor.get(f"/v1/files/{told['output_file_id']}/content") as response:
        answer = json.loads(await response.read())["response"]
    usage = answer["body"]["usage"]
    tokens = (usage["prompt_tokens"], usage["completion_tokens"])
    return Seen(act, answer["status_code"], answer["request_id"], *tokens)


async def _asked(visitor: Visitor, act: str, path: str, body: dict[str, Any]) -> Seen:
    async with visitor.post(path, body) as response:
        return await read(act, response)


Act = Callable[[Visitor, str], Awaitable[Seen]]
ANSWER = {200, 429}
ACTS: dict[str, tuple[Act, int, set[int]]] = {
    "whole": (Visitor.whole, 30, ANSWER),
    "streamed": (Visitor.streamed, 30, ANSWER),
    "several choices": (several, 3, ANSWER),
    "several prompts": (completes_several, 3, ANSWER),
    "held to a schema": (keeps_to_a_schema, 3, ANSWER),
    "calls a tool": (calls_a_tool, 3, ANSWER),
    "Cortex": (cortex, 3, ANSWER),
    "Databricks": (databricks, 3, ANSWER),
    "SQL": (sql, 3, ANSWER),
    "batch": (batch, 1, {200}),
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


class Place(NamedTuple):
    """Where all go, and whom they ask there."""

    url: str
    headers: dict[str, str]
    models: Sequence[str]


async def visit(
    place: Place, num_visitors: int, seconds: float, seen: list[Seen], acts: Sequence[str] = tuple(ACTS)
) -> None:
    """All visitors add to `seen` what they saw."""
    timeout = aiohttp.ClientTimeout(total=LATEST_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=place.headers, timeout=timeout) as session:
        visitors = [Visitor(session, place.url, place.models, seed) for seed in range(num_visitors)]
        await asyncio.gather(*(_stay(visitor, seconds, seen, acts) for visitor in visitors))


async def _stay(visitor: Visitor, seconds: float, seen: list[Seen], acts: Sequence[str]) -> None:
    """Acts one after another for so long; it comes again when it is told to."""
    end, weights = time.monotonic() + seconds, [ACTS[act][1] for act in acts]
    while time.monotonic() < end:
        (act,) = visitor.chance.choices(acts, weights)
        try:
            one = await ACTS[act][0](visitor, act)
        except aiohttp.ClientError as error:
            one = Seen(act, -1, note=repr(error))
        seen.append(one)
        await asyncio.sleep(min(one.retry_after, max(0.0, end - time.monotonic())))
