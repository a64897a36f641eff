"""/v1/batches over the whole app: answers, refusals and bills."""

import json
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import openai
import pytest
from starlette.testclient import TestClient

from luthier.errors import Unavailable
from luthier.platform.registry.registry import Registry
from luthier.platform.wire import CompleteRequest
from luthier.serve.batches import batch_work
from luthier.serve.doors.bodies import ChatBody
from tests.factories import KEY
from tests.fakes import LocalCompletions
from tests.flow.batches import (
    CHAT,
    PLAIN,
    HeldEngine,
    answers,
    billed,
    chat_line,
    content,
    create_batch,
    ended,
    get_batch,
    jsonl,
    send_file,
)
from tests.flow.conftest import error_of
from tests.waiting import wait_for

ANSWER = "base: how are you"


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def client(api: TestClient, server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_with_the_official_client(client: openai.OpenAI, api: TestClient, tuned: str) -> None:
    lines = [
        chat_line("a"),
        chat_line("b", model=tuned),
        chat_line("c", model="nobody"),
        chat_line("d", temperature=9),
        chat_line("e", stream=True),
    ]
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"for": "tests"}
    )
    assert (batch.status, batch.object, batch.metadata) == ("validating", "batch", {"for": "tests"})
    ended(api, batch.id)
    done = client.batches.retrieve(batch.id)
    assert done.request_counts.model_dump() == {"total": 5, "completed": 2, "failed": 3}
    assert done.completed_at >= done.finalizing_at >= done.in_progress_at >= done.created_at
    assert done.expires_at == done.created_at + 24 * 3600
    first, second = (json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines())
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("a", None, 200)
    body = first["response"]["body"]
    assert (body["object"], body["model"]) == ("chat.completion", "tiny")
    assert body["choices"][0]["message"]["content"] == ANSWER
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert second["response"]["body"]["choices"][0]["message"]["content"] == "LUTHIER.PUBLIC.tuned: how are you"
    failed = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    told = [(line["custom_id"], line["response"]["status_code"], line["response"]["body"]["error"]) for line in failed]
    assert [(name, status, error["code"]) for name, status, error in told] == [
        ("c", 404, "model_not_found"),
        ("d", 400, "decimal_above_max_value"),
        ("e", 400, "invalid_value"),
    ]
    assert told[1][2]["param"] == "temperature"
    assert billed(api) == {f"{batch.id}-1": (3, 4), f"{batch.id}-2": (3, 4)}
    usage = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert [(each["function"], each["model"]) for each in usage] == [
        ("CHAT_COMPLETIONS", "tiny"),
        ("CHAT_COMPLETIONS", "LUTHIER.PUBLIC.tuned"),
    ]


def test_completions_and_priority(api: TestClient, engine: HeldEngine) -> None:
    line = {"custom_id": "a", "method": "POST", "url": PLAIN, "body": {"model": "tiny", "prompt": "a b"}}
    engine.whole = super(HeldEngine, engine).whole
    batch = ended(api, create_batch(api, [line], PLAIN)["id"])
    (answer,) = content(api, batch["output_file_id"])
    assert answer["response"]["body"]["choices"][0]["text"] == "base: a b"
    assert [request.priority for request in engine.requests] == [1]
    api.post(PLAIN, json={"model": "tiny", "prompt": "a b"})
    assert engine.requests[1].priority == 0


@pytest.mark.parametrize(("n", "at_once"), [(1, 32), (3, 10)])
def test_live_requests_are_left_half_of_the_engine(
    api: TestClient, engine: HeldEngine, completions: LocalCompletions, n: int, at_once: int
) -> None:
    """It has 64 places, and each choice takes one."""
    lines = [chat_line(f"{number}", "slow", n=n, temperature=1) for number in range(40)]
    batch_id = create_batch(api, lines)["id"]
    wait_for(lambda: engine.num_waiting == at_once)
    assert completions.admission("tiny").num_taken == at_once * n
    engine.is_open = True
    assert len(answers(api, ended(api, batch_id))) == 40


def test_many_lines_come_in_the_order_of_the_file(api: TestClient) -> None:
    lines = [chat_line(f"id {number}", f"say {number}") for number in range(300)]
    hour = {"anchor": "created_at", "seconds": 3600}
    batch = ended(api, create_batch(api, lines, output_expires_after=hour)["id"])
    assert answers(api, batch) == {f"id {number}": f"base: say {number}" for number in range(300)}
    output = api.get(f"/v1/files/{batch['output_file_id']}").json()
    assert (output["purpose"], output["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert output["expires_at"] == output["created_at"] + 3600
    assert batch["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
    assert len(billed(api)) == 300


def test_odd_texts_arrive_as_they_were(api: TestClient) -> None:
    odd = 'ü "\\\n\u2028\U0001f600'
    raw = b'{"custom_id": "\\ud800", "method": "POST", "url": "%s", "body": {"model": "\\ud800"}}' % CHAT.encode()
    batch = ended(api, create_batch(api, [chat_line(odd, "grüße"), raw, b"", b"  "])["id"])
    assert answers(api, batch) == {odd: "base: grüße"}
    (failed,) = content(api, batch["error_file_id"])
    assert failed["custom_id"] == "\ud800"


def test_faults_of_the_file_fail_the_batch(api: TestClient, engine: HeldEngine) -> None:
    good = chat_line("a")
    lines: list[Any] = [
        good,
        b"{",
        b"[1]",
        b"\xff",
        {key: value for key, value in good.items() if key != "custom_id"},
        good,
        {**good, "custom_id": 7},
        {**good, "custom_id": "b", "method": "GET"},
        {**good, "custom_id": "c", "url": PLAIN},
        {**good, "custom_id": "d", "body": "text"},
        {**good, "custom_id": "e", "more": 1},
    ]
    batch = ended(api, create_batch(api, lines)["id"], "failed")
    assert batch["errors"]["object"] == "list"
    assert [(each["line"], each["code"], each["param"]) for each in batch["errors"]["data"]] == [
        (2, "invalid_json_line", None),
        (3, "invalid_json_line", None),
        (4, "invalid_json_line", None),
        (5, "missing_required_parameter", "custom_id"),
        (6, "duplicate_custom_id", "custom_id"),
        (7, "invalid_custom_id", "custom_id"),
        (8, "invalid_method", "method"),
        (9, "url_mismatch", "url"),
        (10, "invalid_body", "body"),
        (11, "unknown_parameter", None),
    ]
    assert (batch["failed_at"] is not None, batch["output_file_id"], engine.requests) == (True, None, [])


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([b"", b" "], "empty_file"),
        ([chat_line("a", "x" * (1 << 20))], "invalid_json_line"),
        ([chat_line("a", metadata=[[]] * 40_000)], "invalid_json_line"),
    ],
    ids=["empty", "long", "nested"],
)
def test_files_that_cannot_be_a_batch(api: TestClient, lines: list[Any], code: str) -> None:
    batch = ended(api, create_batch(api, lines)["id"], "failed")
    assert [each["code"] for each in batch["errors"]["data"]] == [code]


def test_what_is_refused_at_once(api: TestClient) -> None:
    file = send_file(api, jsonl([chat_line("a")]), purpose="fine-tune").json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    assert "purpose batch" in error_of(api.post("/v1/batches", json=body), 400, "invalid_parameter_value")
    absent = {**body, "input_file_id": "file-0"}
    assert "file-0" in error_of(api.post("/v1/batches", json=absent), 404, "not_found")
    for given, code, param in (
        ({"endpoint": "/v1/embeddings"}, "invalid_value", "endpoint"),
        ({"completion_window": "1h"}, "invalid_value", "completion_window"),
        ({"metadata": {"k": "v" * 513}}, "string_above_max_length", "metadata.k"),
        ({"input_file_id": 5}, "invalid_type", "input_file_id"),
        ({"more": 1}, "unknown_parameter", "more"),
    ):
        response = api.post("/v1/batches", json={**body, **given})
        error_of(response, 400, code)
        assert response.json()["error"]["param"] == param
    told = error_of(api.post("/v1/batches", json={"endpoint": CHAT}), 400, "missing_required_parameter")
    assert told == "Missing required parameter: 'input_file_id'."
    error_of(api.post("/v1/batches", json=[]), 400, "invalid_parameter_value")
    error_of(api.get("/v1/batches?limit=0"), 400, "integer_below_min_value")
    error_of(api.get("/v1/batches?limit=few"), 400, "invalid_type")
    error_of(api.get("/v1/batches/batch_0"), 404, "not_found")
    error_of(api.post("/v1/batches/batch_0/cancel"), 404, "not_found")


def test_a_repeated_request_makes_one_batch(api: TestClient) -> None:
    file = send_file(api, jsonl([chat_line("a")])).json()
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    first, again = (api.post("/v1/batches", json=body, headers={"Idempotency-Key": "k"}).json() for _ in range(2))
    assert first["id"] == again["id"]
    other = api.post("/v1/batches", json={**body, "metadata": {"a": "b"}}, headers={"Idempotency-Key": "k"})
    assert "Idempotency-Key" in error_of(other, 409, "conflict")


def test_the_list_has_pages(client: openai.OpenAI, api: TestClient) -> None:
    made = [create_batch(api, [chat_line("a")])["id"] for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    page = client.batches.list(limit=2, after=made[3])
    assert ([batch.id for batch in page.data], page.has_more) == (made[2:0:-1], True)
    error_of(api.get("/v1/batches", params={"after": "batch_0"}), 404, "not_found")


def test_cancelled_in_the_middle(
    api: TestClient, engine: HeldEngine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun is finished, the rest is not begun."""
    report = mock.Mock(side_effect=registry.batches.report)
    monkeypatch.setattr(registry.batches, "report", report)
    monkeypatch.setattr(batch_work, "REPORT_SECONDS", 0.02)
    lines = [chat_line("quick"), *(chat_line(f"slow {number}", "slow") for number in range(300))]
    batch = create_batch(api, lines)
    wait_for(lambda: engine.num_waiting and get_batch(api, batch["id"])["request_counts"]["completed"])
    begun = engine.num_waiting + 1
    assert 1 < begun < 300
    assert api.post(f"/v1/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    in_use = api.delete(f"/v1/files/{batch['input_file_id']}")
    assert "is not done" in error_of(in_use, 409, "conflict")
    told = report.call_count
    wait_for(lambda: report.call_count > told + 1)
    engine.is_open = True
    done = ended(api, batch["id"], "cancelled")
    assert done["cancelled_at"] >= done["cancelling_at"]
    assert done["request_counts"] == {"total": 301, "completed": begun, "failed": 0}
    assert len(answers(api, done)) == len(billed(api)) == done["request_counts"]["completed"]
    assert done["error_file_id"] is None
    assert api.post(f"/v1/batches/{batch['id']}/cancel").json()["status"] == "cancelled"
    assert api.delete(f"/v1/files/{batch['input_file_id']}").json()["deleted"]


def test_what_is_done_is_not_cancelled(api: TestClient) -> None:
    batch = ended(api, create_batch(api, [chat_line("a")])["id"])
    assert "completed" in error_of(api.post(f"/v1/batches/{batch['id']}/cancel"), 409, "conflict")


def test_an_engine_that_is_away_is_waited_for(api: TestClient, engine: HeldEngine) -> None:
    engine.errors = [Unavailable("restarting"), Unavailable("restarting")]
    batch = ended(api, create_batch(api, [chat_line("a"), chat_line("b")])["id"])
    assert answers(api, batch) == {"a": ANSWER, "b": ANSWER}


def test_a_line_is_read_once_and_a_long_one_beside_the_loop(
    api: TestClient, engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, read = list[str](), ChatBody.request

    def request(body: ChatBody) -> CompleteRequest:
        threads.append(threading.current_thread().name)
        return read(body)

    monkeypatch.setattr(ChatBody, "request", request)
    engine.errors += [Unavailable("The engine is starting."), Unavailable("The engine is starting.")]
    ended(api, create_batch(api, [chat_line("a"), chat_line("b", "x" * (1 << 17))])["id"])
    assert [name.startswith("prompts") for name in threads] == [False, True]


def test_a_fault_of_ours_is_one_lines_alone(api: TestClient, engine: HeldEngine) -> None:
    engine.errors = [ZeroDivisionError("secret")]
    batch = ended(api, create_batch(api, [chat_line("a"), chat_line("b")])["id"])
    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (failed,) = content(api, batch["error_file_id"])
    assert failed["response"]["status_code"] == 500
    assert "secret" not in json.dumps(failed)


# kills
