"""Rate limits through every door: set, seen, refused in each dialect's words, and waited for where nobody stands."""

import json
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from click.testing import Result
from starlette.testclient import TestClient

from luthier.platform.jobs import now_ms
from luthier.platform.rates import MINUTE_MS, RateLimit
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, KEY
from tests.flow.batches import chat_line, create_batch, ended, get_batch
from tests.flow.conftest import CHAT, error_of
from tests.flow.people import Join, join, key_of, rows  # noqa: F401 - a fixture
from tests.flow.test_cli import run  # noqa: F401 - a fixture
from tests.waiting import wait_for

LIMITS = "/luthier/v1/limits"
MESSAGES = [{"role": "user", "content": "a b c"}]
ASK = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8}


def put(api: TestClient, **limit: object) -> dict[str, object]:
    response = api.put(LIMITS, json=limit)
    assert response.status_code == 200, response.text
    told: dict[str, object] = response.json()
    return told


def with_new_key(api: TestClient) -> TestClient:
    client = TestClient(
        api.app, headers={"Authorization": f"Bearer {api.post('/luthier/v1/keys', json={}).json()['key']}"}
    )
    client.portal = api.portal
    return client


@pytest.fixture
def late(registry: Registry) -> Callable[..., None]:
    """From when it is called, the registry's minute is over soon."""

    def begin(left_seconds: float = 1.5) -> None:
        ahead = MINUTE_MS - now_ms() % MINUTE_MS - int(left_seconds * 1000)
        registry.rates._clock = lambda: now_ms() + ahead

    return begin


@pytest.fixture
def early(registry: Registry) -> None:
    """It has only begun, and goes on for longer than a test."""
    back = now_ms() % MINUTE_MS
    registry.rates._clock = lambda: now_ms() - back


@pytest.fixture(params=["", "/m/tiny"])
def url(server: str, request: pytest.FixtureRequest) -> str:
    """The gateway's door, and a replica's own."""
    return f"{server}{request.param}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.mark.usefixtures("early")
def test_openais_client_reads_where_it_stands_and_is_refused(api: TestClient, client: openai.OpenAI) -> None:
    put(api, model="tiny", requests=2, tokens=100)
    raw = client.chat.completions.with_raw_response.create(**ASK)
    told = {name: raw.headers[f"x-ratelimit-{name}"] for name in ("limit-requests", "remaining-requests")}
    assert told == {"limit-requests": "2", "remaining-requests": "1"}
    assert raw.headers["x-ratelimit-limit-tokens"] == "100"
    assert raw.headers["x-ratelimit-remaining-tokens"] == str(100 - 3 - 8)
    assert 0 < float(raw.headers["x-ratelimit-reset-requests"].removesuffix("s")) < 61
    streamed = client.chat.completions.with_raw_response.create(**ASK, stream=True)
    assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
    assert list(streamed.parse())
    with pytest.raises(openai.RateLimitError, match="on model tiny reached: 2 requests per minute") as refused:
        client.chat.completions.create(**ASK)
    assert (refused.value.code, refused.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    headers = refused.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-remaining-tokens"] == str(100 - 2 * 3 - 2 * 4), "what was not used is free again"


def test_openais_client_comes_again_when_it_is_told_to(api: TestClient, url: str, late: Callable[..., None]) -> None:
    put(api, model="tiny", requests=1)
    answers: list[int] = []
    hooks = {"response": [lambda answer: answers.append(answer.status_code)]}
    http_client = httpx.Client(event_hooks=hooks)
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=1, http_client=http_client) as client:
        late(4.0)
        assert client.chat.completions.create(**ASK).usage
        began = time.monotonic()
        assert client.chat.completions.create(**ASK).usage
    assert answers == [200, 429, 200]
    assert time.monotonic() - began < 30, "not the 60 seconds of a whole minute"


@pytest.mark.usefixtures("early")
def test_openais_client_does_not_repeat_what_never_fits(api: TestClient, url: str) -> None:
    put(api, model="tiny", tokens=10)
    sent: list[httpx.Request] = []
    counting = httpx.Client(event_hooks={"request": [sent.append]})
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=2, http_client=counting) as client:
        with pytest.raises(openai.RateLimitError, match="lower max_tokens"):
            client.chat.completions.create(**ASK)
        assert len(sent) == 1
        assert client.chat.completions.create(**{**ASK, "max_tokens": 7}).usage


@pytest.mark.usefixtures("early")
def test_a_key_a_model_and_a_key_on_a_model(api: TestClient, tuned: str) -> None:
    ann, bob = with_new_key(api), with_new_key(api)
    key = key_of(ann)
    put(api, key=key, model="tiny", requests=1)
    put(api, key=key, requests=2)
    put(api, model="tuned", requests=1)
    asks = {name: {**ASK, "model": name} for name in ("tiny", "tuned")}
    assert ann.post(CHAT, json=asks["tiny"]).status_code == 200
    assert f"of key {key} on model tiny" in error_of(ann.post(CHAT, json=asks["tiny"]), 429, "rate_limit_exceeded")
    assert bob.post(CHAT, json=asks["tiny"]).status_code == 200
    assert ann.post(CHAT, json=asks["tuned"]).status_code == 200
    refused = error_of(bob.post(CHAT, json=asks["tuned"]), 429, "rate_limit_exceeded")
    assert "on model LUTHIER.PUBLIC.TUNED reached" in refused
    assert api.delete(LIMITS, params={"model": "Tuned"}).json()["requests"] == 1
    again = ann.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    assert f"of key {key} " in error_of(again, 429, "rate_limit_exceeded")


@pytest.mark.usefixtures("early")
def test_what_never_fits_is_not_asked_again(api: TestClient) -> None:
    put(api, model="tiny", tokens=1)
    body = {"model": "tiny", "messages": MESSAGES, "stream": False}
    refused = api.post(CHAT, json=body)
    assert "It never fits" in error_of(refused, 429, "rate_limit_exceeded")
    assert (refused.headers["x-should-retry"], refused.headers.get("retry-after")) == ("false", None)
    for path, words in (
        ("/api/v2/cortex/inference:complete", "invalid options object: Rate limit on model tiny"),
        ("/serving-endpoints/tiny/invocations", "Rate limit on model tiny"),
    ):
        told = api.post(path, json={key: value for key, value in body.items() if key != "model" or "tiny" not in path})
        assert (told.status_code, told.json()["code"]) == (400, "rate_limit_exceeded")
        assert told.json()["message"].startswith(words)


@pytest.mark.usefixtures("early")
def test_snowflakes_clients_are_refused_in_its_words(api: TestClient) -> None:
    put(api, model="tiny", requests=1)
    path, body = "/api/v2/cortex/inference:complete", {"model": "tiny", "messages": MESSAGES, "stream": False}
    assert api.post(path, json=body).status_code == 200
    refused = api.post(path, json=body)
    assert refused.status_code == 429
    assert set(refused.json()) == {"message", "code", "error_code", "request_id"}
    assert refused.json()["message"].startswith("too many requests: Rate limit on model tiny")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (
        api.post("/api/v2/cortex/v1/chat/completions", json={"model": "tiny", "messages": MESSAGES}).status_code == 429
    )


def test_rows_of_sql_wait_for_the_next_minute(api: TestClient, late: Callable[[], None]) -> None:
    put(api, model="tiny", requests=2)
    late()
    found = rows(api, "SELECT AI_COMPLETE('tiny', x) AS answer FROM (VALUES ('a'), ('b'), ('c')) AS t(x)")
    assert sorted(str(row["answer"]) for row in found) == ["base: a", "base: b", "base: c"]


def test_lines_of_a_batch_wait_for_the_next_minute(api: TestClient, late: Callable[[], None]) -> None:
    put(api, model="tiny", requests=4)
    late()
    batch = create_batch(api, [chat_line(f"l{number}") for number in range(4)])
    assert ended(api, batch["id"])["request_counts"] == {"total": 4, "completed": 4, "failed": 0}


@pytest.mark.usefixtures("early")
def test_lines_of_a_batch_leave_half_of_a_minute_to_live_requests(api: TestClient) -> None:
    put(api, model="tiny", requests=4)
    batch = create_batch(api, [chat_line(f"l{number}") for number in range(3)])
    wait_for(lambda: get_batch(api, batch["id"])["request_counts"]["completed"] == 2)
    assert [api.post(CHAT, json=ASK).status_code for _ in range(3)] == [200, 200, 429]
    assert get_batch(api, batch["id"])["status"] == "in_progress"
    api.post(f"/v1/batches/{batch['id']}/cancel")
    assert ended(api, batch["id"], "cancelled")["request_counts"]["completed"] == 2


@pytest.mark.usefixtures("early")
def test_a_line_that_no_minute_has_room_for_fails(api: TestClient) -> None:
    put(api, model="tiny", tokens=5)
    batch = create_batch(api, [chat_line("l0")])
    assert ended(api, batch["id"])["request_counts"] == {"total": 1, "completed": 0, "failed": 1}


@pytest.mark.usefixtures("early")
def test_without_credits_nothing_is_taken_of_a_minute(api: TestClient, registry: Registry) -> None:
    put(api, model="tiny", requests=1)
    registry.credits.limit(ADMIN, "main")
    for _ in range(3):
        error_of(api.post(CHAT, json=ASK), 402, "insufficient_credits")
    registry.credits.top_up(ADMIN, "main", 10**6, "k1")
    wait_for(lambda: api.post(CHAT, json=ASK).status_code == 200)


def test_the_view(api: TestClient) -> None:
    view = "SELECT * FROM SNOWFLAKE.ACCOUNT_USAGE.CORTEX_REST_API_RATE_LIMIT_POLICIES"
    assert rows(api, view) == []
    put(api, model="tiny", requests=800, tokens=800_000)
    put(api, key=key_of(api), requests=1)
    assert rows(api, view) == [{"MODEL_NAME": "tiny", "RPM": 800, "TPM": 800_000}]


def test_what_no_limit_can_be(api: TestClient, join: Join) -> None:  # noqa: F811
    for limit in (
        {"requests": 1},
        {"model": "tiny"},
        {"model": "tiny", "requests": -1},
        {"model": "tiny", "tokens": "x"},
    ):
        error_of(api.put(LIMITS, json=limit), 400, "invalid_parameter_value")
    error_of(api.put(LIMITS, json={"model": "nobodys", "requests": 1}), 404, "model_not_found")
    error_of(api.put(LIMITS, json={"key": "key_0", "requests": 1}), 404, "not_found")
    error_of(api.delete(LIMITS, params={"model": "tiny"}), 404, "not_found")
    ann = join("ANALYST", "ANN")
    error_of(ann.put(LIMITS, json={"model": "tiny", "requests": 1}), 403, "not_authorized")
    error_of(ann.get(LIMITS), 403, "not_authorized")


def test_limits_on_the_command_line(run: Callable[..., Result]) -> None:  # noqa: F811
    assert "No rate limits" in run("limits", "list").output
    told = json.loads(run("limits", "set", "--model", "tiny", "--requests", "800", "--json").output)
    assert told == {"key": None, "model": "tiny", "requests": 800, "tokens": None}
    assert json.loads(run("limits", "list", "--json").output) == [told]
    assert "800" in run("limits", "list").output
    refused = run("limits", "set", "--requests", "1")
    assert (refused.exit_code, refused.output.splitlines()[0][:7]) == (2, "Error: ")
    assert run("limits", "unset", "--model", "tiny").exit_code == 0
    assert run("limits", "unset", "--model", "tiny").exit_code == 3


def test_the_same_again_changes_nothing(api: TestClient, registry: Registry) -> None:
    for _ in range(2):
        put(api, model="tiny", requests=5)
    assert registry.rates.show(ADMIN) == [RateLimit(model="tiny", requests=5)]
