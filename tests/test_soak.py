"""The soak without a Luthier: its checks find what is wrong, and its visitors know how each act may end."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.serve_sides import Setup
from benchmarks.soak import Counts, Look, Watch, _answers, _leaks, _samples, _tokens
from benchmarks.soak_traffic import ACTS, LEFT, Seen, visit

GOOD = [Seen("whole", 200, "req_1", 3, 5), Seen("leaves a stream", LEFT), Seen("whole", 429, retry_after=2.0)]
RECORDS = {"req_1": (3, 5), "req_2": (4, 2)}
MADE = Counts(prompt=107, completion=207)
BEFORE = Counts(prompt=100, completion=200)


def bad(checks: Iterator[Any]) -> list[str]:
    return [check.what for check in checks if not check.is_good]


def test_good_answers() -> None:
    assert bad(_answers(GOOD)) == []
    assert bad(_tokens(GOOD, RECORDS, BEFORE, MADE)) == []


@pytest.mark.parametrize("seen", [Seen("whole", 500), Seen("wrong key", 200), Seen("streamed", -1)])
def test_an_odd_end_is_found(seen: Seen) -> None:
    assert bad(_answers([*GOOD, seen])) == ["every act ended as it may"]


def test_a_refusal_without_a_time_is_found() -> None:
    assert bad(_answers([Seen("whole", 429)])) == ["the refused know when to come again"]


@pytest.mark.parametrize(
    ("records", "made", "what"),
    [
        ({}, MADE, "the ledger has each answer"),
        ({**RECORDS, "req_1": (3, 6)}, MADE, "the ledger has each answer"),
        (RECORDS, MADE._replace(completion=208), "all tokens that vLLM made"),
        ({**RECORDS, "req_3": (0, 1)}, MADE, "all tokens that vLLM made"),
        (RECORDS, MADE._replace(prompt=108), "so are all that it read"),
    ],
)
def test_a_wrong_count_is_found(records: dict[str, tuple[int, int]], made: Counts, what: str) -> None:
    assert bad(_tokens(GOOD, records, BEFORE, made))[0].startswith(what)


def test_leaks_are_found(tmp_path: Path) -> None:
    spool = tmp_path / "spool" / "bench"
    spool.mkdir(parents=True)
    (spool / "1-1.jsonl").touch()
    flat, rising = [Look(100, 5)] * 9, [Look(100 + 2 * at, 5) for at in range(9)]
    setup, watch = Setup(tmp_path, ()), Watch("mark", {"gateway": flat})
    assert bad(_leaks(setup, watch, Counts(), 0.5)) == []
    watch.looks["registry"] = rising
    assert bad(_leaks(setup, watch, Counts(), 0.5)) == ["memory of the registry is flat"]
    (spool / "1-1.jsonl").write_text("{}")
    found = bad(_leaks(setup, watch, Counts(waiting=1), 1.5))
    assert [what.split()[0] for what in found] == ["a", "vLLM", "no", "memory"]


def test_samples_are_read() -> None:
    text = '# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{a="b"} 7.0\nother 1.0\nluthier_sequences 2.0\n'
    assert list(_samples(text)) == [("prompt", 7.0), ("places", 2.0)]


async def answer(request: web.Request) -> web.StreamResponse:
    """What a server says that is always right."""
    if request.headers["Authorization"] != "Bearer right":
        return web.json_response({}, status=401)
    body = await request.json()
    if body["model"] == "nobody" or len(body["messages"][0]["content"] if body["messages"] else "") > 400:
        return web.json_response({}, status=404 if body["model"] == "nobody" else 400)
    if {"n", "wisdom"} & set(body) or body.get("temperature") or body.get("stop") or not body["messages"]:
        return web.json_response({}, status=400)
    usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}
    headers = {"x-request-id": "req_1"}
    if not body.get("stream"):
        return web.json_response(usage, headers=headers)
    lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in ({"choices": []}, usage))
    return web.Response(text=f"{lines}data: [DONE]\n\n", headers=headers)


def test_visitors_know_how_each_act_may_end() -> None:
    async def visits() -> list[Seen]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        async with TestServer(app) as server:
            return await visit([str(server.make_url("/v1"))], {"Authorization": "Bearer right"}, ["a"], 8, 0.5)

    seen = asyncio.run(visits())
    assert {each.act for each in seen} >= {"whole", "streamed", "leaves a stream"}
    assert [each for each in seen if each.status not in ACTS[each.act][2]] == []
    assert {(each.id, each.completion_tokens) for each in seen if each.status == 200} == {("req_1", 5)}
