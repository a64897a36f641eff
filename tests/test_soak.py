"""The soak without a Luthier: its checks find what is wrong, and its visitors know how each act may end."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.soak import _samples
from benchmarks.soak_acts import ACTS, Place, visit
from benchmarks.soak_checks import (
    MAX_FILES,
    MAX_MIB,
    MIN_EVICTIONS,
    Check,
    Counts,
    of_answers,
    of_leaks,
    of_the_adapters,
    of_the_engines_counters,
    of_the_ledger,
    of_the_rest,
)
from benchmarks.soak_traffic import LEFT, Seen
from benchmarks.soak_watch import STORE, Look, Watch, rise

ENDS = {"leaves a stream": LEFT, "stalls": LEFT, "cuts its body": LEFT, "nonsense": 400, "too long": 400}
ENDS |= {"leaves before the answer": LEFT, "unknown model": 404, "wrong key": 401}
GOOD = [Seen(act, ENDS.get(act, 200), f"req_{act}", 3, 5) for act in ACTS]
REFUSED = Seen("whole", 429, retry_after=2.0)
RECORDS = {each.id: (3, 5) for each in GOOD if each.status == 200}
ACTS_OF_LOOKS = range(0, 10_001, 125)
STEADY, NOISE = [0.0] * 81, [3.0, -3.0, 2.0, -2.0] * 20 + [0.0]


def bad(checks: Iterable[Check]) -> list[str]:
    return [check.what for check in checks if not check.is_good]


def bad_answers(seen: list[Seen], log: Path = Path()) -> list[str]:
    return bad(of_answers(seen, log))


def test_good_answers() -> None:
    assert bad_answers([*GOOD, REFUSED]) == []
    assert bad(of_the_ledger(GOOD, RECORDS)) == []


@pytest.mark.parametrize("seen", [Seen("whole", 500), Seen("wrong key", 200), Seen("streamed", -1), Seen("batch", 500)])
def test_an_odd_end_is_found(seen: Seen) -> None:
    assert bad_answers([*GOOD, seen]) == ["every act ended as it may"]


def test_of_an_odd_end_the_servers_side_is_told(tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text('{"id":"req_8","status":200}\n{"id":"req_9","status":499}\n')
    odd, *_ = of_answers([*GOOD, Seen("streamed", -1, "req_9", note="broken")], log)
    assert odd.found.endswith('the access log: {"id":"req_9","status":499}')
    odd, *_ = of_answers([*GOOD, Seen("streamed", 503)], log)
    assert odd.found.endswith("the access log: nothing")


@pytest.mark.parametrize("act", list(ACTS))
def test_an_act_that_came_to_nothing_is_found(act: str) -> None:
    seen = [each for each in GOOD if each.act != act]
    assert bad_answers(seen) == ["every act came to more than a refusal"]
    if 429 in ACTS[act][2]:
        assert bad_answers([*seen, REFUSED._replace(act=act)]) == ["every act came to more than a refusal"]


def test_a_refusal_without_a_time_is_found() -> None:
    assert bad_answers([*GOOD, Seen("whole", 429)]) == ["the refused know when to come again"]


@pytest.mark.parametrize("records", [{}, {**RECORDS, "req_SQL": (3, 6)}, {**RECORDS, "req_batch": (2, 5)}])
def test_a_wrong_count_is_found(records: dict[str, tuple[int, int]]) -> None:
    assert bad(of_the_ledger(GOOD, records)) == ["the ledger has each answer as its client counted it"]


def row(check: str, what: str, counted: int = 7, difference: int = 0) -> dict[str, Any]:
    return {"check": check, "of": "bench", "what": what, "counted": counted, "difference": difference}


def test_vllms_counters_must_be_there_and_explained() -> None:
    engine = [row("engine", what) for what in ("prompt_tokens", "completion_tokens")]
    assert of_the_engines_counters({"checks": [*engine, row("batches", "lines")]}, 1).is_good
    for checks in (
        engine[:1],
        [engine[0], row("engine", "completion_tokens", counted=0)],
        [*engine, row("batches", "lines", difference=-1)],
        [engine[0], row("engine", "completion_tokens", difference=1)],
    ):
        assert not of_the_engines_counters({"checks": checks}, 1).is_good
    assert not of_the_engines_counters({"checks": engine}, 2).is_good


def test_adapters_that_stay_are_found() -> None:
    assert of_the_adapters(5, 5 + MIN_EVICTIONS).is_good
    assert not of_the_adapters(5, 4 + MIN_EVICTIONS).is_good


def test_what_is_left_behind_is_found(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    spool = tmp_path / "bench" / "1-1.jsonl"
    spool.touch()
    assert bad(of_the_rest(tmp_path, Counts(), 0.5)) == []
    spool.write_text("{}")
    assert [what.split()[0] for what in bad(of_the_rest(tmp_path, Counts(waiting=1), 1.5))] == ["a", "vLLM", "no"]


def looks(mib: float = 0.0, files: float = 0.0, wobble: list[float] = STEADY) -> list[Look]:
    """They rise by so much in 10,000 acts."""
    return [
        Look(acts, 100 + mib * acts / 10_000 + off, round(50 + files * acts / 10_000))
        for acts, off in zip(ACTS_OF_LOOKS, wobble, strict=True)
    ]


def leaks(**roles: list[Look]) -> list[str]:
    at_rest = {role: [of_role[0], of_role[-1]] for role, of_role in roles.items()}
    return bad(of_leaks(Watch("mark", Path(), lambda: 0, {STORE: looks(), **roles}, at_rest)))


def test_a_rise_is_the_slope_after_the_warm_up() -> None:
    warm = [Look(acts, 500 * acts, 7 * acts) for acts in range(0, 2_000, 250)]
    assert rise([*warm, *looks(4)[20:]]) == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("role", list(MAX_MIB))
def test_leaks_are_found(role: str) -> None:
    most = MAX_MIB[role]
    assert leaks(**{role: looks(wobble=NOISE)}) == []
    assert leaks(**{role: looks(mib=most - 0.5, files=MAX_FILES)}) == []
    assert leaks(**{role: looks(mib=most + 0.5)}) == [f"memory of the {role} stays"]
    assert leaks(**{role: looks(mib=most + 1.5, wobble=NOISE)}) == [f"memory of the {role} stays"]
    assert leaks(**{role: looks(files=MAX_FILES + 1)}) == [f"open files of the {role} stay"]


def test_a_reader_of_the_store_may_rise_with_it() -> None:
    stored = {STORE: looks(mib=5)}
    assert leaks(**stored, registry=looks(mib=7.5), reader=looks(mib=7.5)) == []
    assert leaks(**stored, registry=looks(mib=8.5), gateway=looks(mib=8.5)) == [
        "memory of the registry stays",
        "memory of the gateway stays",
    ]


def test_samples_are_read() -> None:
    text = '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{a="b"} 7.0\nother 1.0\n'
    assert list(_samples(f"{text}luthier_sequences 2.0\n")) == [("running", 7.0), ("places", 2.0)]


USAGE = {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}
HEADERS = {"x-request-id": "req_1"}


async def chat(request: web.Request) -> web.StreamResponse:
    """What a server says that is always right."""
    if request.headers["Authorization"] != "Bearer right":
        return web.json_response({}, status=401)
    body = await request.json()
    if body["model"] == "nobody" or len(body["messages"][0]["content"] if body["messages"] else "") > 400:
        return web.json_response({}, status=404 if body["model"] == "nobody" else 400)
    if body.get("n") == 0 or "wisdom" in body or body.get("temperature") or body.get("stop") or not body["messages"]:
        return web.json_response({}, status=400)
    if not body.get("stream"):
        return web.json_response(USAGE, headers=HEADERS)
    pieces: tuple[dict[str, Any], ...] = ({"choices": []}, USAGE)
    lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
    return web.Response(text=f"{lines}data: [DONE]\n\n", headers=HEADERS)


async def one_form(request: web.Request) -> web.Response:
    """Cortex, Databricks, completions."""
    assert request.headers["Authorization"] == "Bearer right"
    assert set(await request.json()) & {"prompt", "messages"}
    return web.json_response(USAGE, headers=HEADERS)


async def sql(request: web.Request) -> web.Response:
    statement = (await request.json())["statement"]
    assert statement.startswith("SELECT SNOWFLAKE.CORTEX.COMPLETE('a', [{'role': 'user', ")
    return web.json_response({"rows": [[json.dumps(USAGE)]]}, headers=HEADERS)


async def send_file(request: web.Request) -> web.Response:
    form = await request.post()
    file = form["file"]
    assert isinstance(file, web.FileField)
    assert json.loads(file.file.read())["body"]["messages"]
    return web.json_response({"id": "file-1"})


async def send_batch(request: web.Request) -> web.Response:
    assert (await request.json())["input_file_id"] == "file-1"
    return web.json_response({"id": "batch_1", "status": "completed", "output_file_id": "file-2"})


async def content(_request: web.Request) -> web.Response:
    response = {"status_code": 200, "request_id": "batch_1-1", "body": USAGE}
    return web.Response(text=json.dumps({"response": response}) + "\n")


def app() -> web.Application:
    made = web.Application()
    made.router.add_post("/v1/chat/completions", chat)
    for path in ("/v1/completions", "/api/v2/cortex/inference:complete", "/serving-endpoints/a/invocations"):
        made.router.add_post(path, one_form)
    made.router.add_post("/luthier/v1/sql", sql)
    made.router.add_post("/v1/files", send_file)
    made.router.add_post("/v1/batches", send_batch)
    made.router.add_get("/v1/files/file-2/content", content)
    return made


async def breaking(request: web.Request) -> web.StreamResponse:
    """A stream without its end."""
    response = web.StreamResponse(headers=HEADERS)
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b'data: {"choices": []}\n\n')
    assert request.transport
    request.transport.close()
    return response


async def acted(*names: str, server_app: web.Application | None = None) -> list[Seen]:
    seen: list[Seen] = []
    async with TestServer(server_app or app()) as server:
        place = Place(str(server.make_url("")).rstrip("/"), {"Authorization": "Bearer right"}, ["a"])
        await visit(place, 8, 0.5, seen, names or tuple(ACTS))
    return seen


def test_visitors_know_how_each_act_may_end() -> None:
    seen = asyncio.run(acted())
    assert {each.act for each in seen} >= {"whole", "streamed", "leaves a stream"}
    assert [each for each in seen if each.status not in ACTS[each.act][2]] == []


def test_a_stream_without_its_end_is_named() -> None:
    made = web.Application()
    made.router.add_post("/v1/chat/completions", breaking)
    seen = asyncio.run(acted("streamed", server_app=made))
    assert {(each.status, each.id) for each in seen} == {(-1, "req_1")}
    assert "payload is not completed" in seen[0].note


NAMED = {"several prompts": "req_1", "Cortex": "req_1", "Databricks": "req_1", "SQL": "req_1-0", "batch": "batch_1-1"}


def test_each_door_is_counted_by_the_ledgers_name() -> None:
    seen = asyncio.run(acted(*NAMED))
    assert {(each.act, each.id, each.prompt_tokens) for each in seen} == {(*each, 3) for each in NAMED.items()}
