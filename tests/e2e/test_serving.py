"""Many models in one batch, refused requests, clients that go away, engines that die; and a run beside them."""

import asyncio
import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from luthier.cli.client import FinetuneJob
from tests.e2e.callers import ON
from tests.e2e.jobs import FIRST, SECOND, WILD, bill_of, ended, table_of
from tests.e2e.live import BASE, LONG, MAX_LORAS, REAL, REPLICA, SECONDS, LiveCluster, until
from tests.e2e.test_first_model import usage_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MADE = "vllm:generation_tokens_total"
NUM_TOGETHER = 32
MOST_CHOICES = 16
"""Of a prompt; and as many run at once."""
CROWD, NUM_ROWS = 120, 2_000
NUM_IN_FLIGHT = 12
"""Fewer than 16, so that one more is begun at once; enough to take seconds."""


@pytest.fixture(scope="module", autouse=True)
def wild_job(cluster: LiveCluster, first_job: FinetuneJob, tmp_path_factory: pytest.TempPathFactory) -> FinetuneJob:
    """Runs while the tests of this file ask the engine."""
    query = table_of(cluster, "first_table", tmp_path_factory.mktemp("wild"))
    return cluster.client.finetune.create("wild", BASE, query, options=WILD)


def answer(cluster: LiveCluster, model: str, prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    done = cluster.openai.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=16)
    return done.choices[0].message.content


def engine_processes(cluster: LiveCluster) -> list[psutil.Process]:
    """vLLM's processes, the one that holds the model last."""
    (replica,) = cluster.roles(REPLICA)
    return sorted(replica.children(recursive=True), key=lambda process: process.memory_info().rss)


def answers_again(cluster: LiveCluster, model: str, prompt: str) -> str:
    """The first answer after a fault; until then every error says that the request may be sent again."""

    def attempt() -> str | None:
        try:
            return answer(cluster, model, prompt)
        except openai.APIStatusError as error:
            if (error.status_code, error.code) != (503, "unavailable"):
                raise
            return None

    return until(attempt, SECONDS, f"an answer of {model}")


def test_models_in_one_batch_answer_as_they_do_alone(
    cluster: LiveCluster, first_job: FinetuneJob, second_job: FinetuneJob
) -> None:
    """Guards base requests against whatever adapter lies in the last slot: all slots are full here."""
    tuned = {"first": FIRST, "second": SECOND}
    assert len(tuned) == MAX_LORAS
    asks = list(itertools.product([*tuned, BASE], FIRST))
    alone = {(model, prompt): answer(cluster, model, prompt) for model, prompt in asks}
    for model, answers in tuned.items():
        assert {prompt: alone[model, prompt] for prompt in FIRST} == answers
    mixed = list(itertools.islice(itertools.cycle(asks), NUM_TOGETHER))
    with ThreadPoolExecutor(NUM_TOGETHER) as pool:
        together = list(pool.map(lambda ask: answer(cluster, *ask), mixed))
    assert [(ask, got) for ask, got in zip(mixed, together, strict=True) if got != alone[ask]] == []


def test_the_replicas_own_door_answers_as_the_gateway_does(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    doors = [cluster.openai, cluster.openai.with_options(base_url=f"{cluster.url}/m/{BASE}/v1")]
    own = {"id", "created"}
    for model, prompt in itertools.product(["first", BASE], FIRST):
        ask: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 16}
        ask["messages"] = [{"role": "user", "content": prompt}]
        wholes = [door.chat.completions.create(**ask) for door in doors]
        assert wholes[0].model_dump(exclude=own) == wholes[1].model_dump(exclude=own)
        assert usage_of(cluster, wholes[1].id) == usage_of(cluster, wholes[0].id)
        streams = [list(door.chat.completions.create(**ask, stream=True)) for door in doors]
        texts = ["".join(chunk.choices[0].delta.content or "" for chunk in stream) for stream in streams]
        assert texts == [whole.choices[0].message.content for whole in wholes]
    listed = [each.id for each in doors[1].models.list()]
    assert (BASE in listed, REAL in listed) == (True, False)
    others = [door.completions.create(model=REAL, prompt="the", temperature=0, max_tokens=4) for door in doors]
    assert others[0].choices == others[1].choices
    with pytest.raises(openai.AuthenticationError):
        doors[1].with_options(api_key="lt_wrong").models.list()


def always_in_flight(cluster: LiveCluster) -> NoReturn:
    """Long answers, one request after the other on a connection of its own, until one fails."""
    with OpenAI(base_url=f"{cluster.url}/v1", api_key=cluster.key, max_retries=0, timeout=SECONDS) as client:
        while True:
            client.completions.create(model=BASE, prompt="the", n=NUM_IN_FLIGHT, max_tokens=LONG, **ON)


@pytest.mark.parametrize(("num_words", "max_tokens"), [(600, None), (10, 510)])
def test_what_exceeds_the_context_is_refused(cluster: LiveCluster, num_words: int, max_tokens: int | None) -> None:
    messages = [{"role": "user", "content": "the fox " * num_words}]
    with pytest.raises(openai.BadRequestError) as caught:
        cluster.openai.chat.completions.create(model=BASE, messages=messages, max_completion_tokens=max_tokens)
    assert caught.value.code == "context_length_exceeded"


def test_a_stream_that_the_client_leaves_is_billed_so_far(cluster: LiveCluster) -> None:
    stream = cluster.openai.completions.create(
        model=BASE, prompt=["the"] * 4, n=MOST_CHOICES, max_tokens=LONG, stream=True, **ON
    )
    chunks = list(itertools.islice(stream, 3))
    stream.response.close()
    prompt_tokens, completion_tokens = usage_of(cluster, chunks[0].id)
    assert prompt_tokens >= 1
    assert 3 <= completion_tokens < 4 * MOST_CHOICES * LONG
    assert answer(cluster, BASE, "the fox")


def metric_of(cluster: LiveCluster, name: str) -> float:
    """The engine's."""
    headers = {"Authorization": f"Bearer {cluster.key}"}
    answer = httpx.get(f"{cluster.url}/m/{BASE}/metrics", headers=headers, timeout=SECONDS)
    (found,) = re.findall(rf"^{name}\{{.*\}} (\S+)$", answer.text, re.MULTILINE)
    return float(found)


def num_in_engine(cluster: LiveCluster) -> float:
    """As of its last step."""
    return sum(metric_of(cluster, f"vllm:num_requests_{state}") for state in ("running", "waiting"))


async def overrun(cluster: LiveCluster, model: str) -> tuple[list[httpx.Response], float]:
    """CROWD long answers at once, until a quarter is refused; then the rest leaves. The refusals, and what the engine
    had made when all had left.
    """
    refused: list[httpx.Response] = []
    headers = {"Authorization": f"Bearer {cluster.key}"}
    body = {"model": model, "prompt": "the", "max_tokens": LONG, "ignore_eos": True}

    async def client(session: httpx.AsyncClient) -> None:
        while (response := await session.post("/v1/completions", json=body)).status_code == 200:
            pass
        refused.append(response)

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=cluster.url, headers=headers, limits=limits, timeout=SECONDS) as session:
        tasks = [asyncio.create_task(client(session)) for _ in range(CROWD)]
        async with asyncio.timeout(SECONDS):
            while len(refused) < CROWD / 4:
                await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return refused, metric_of(cluster, MADE)


@pytest.mark.parametrize("model", [BASE, "first"], ids=["direct", "by the gateway"])
def test_what_is_too_much_is_refused_and_who_leaves_makes_room(
    cluster: LiveCluster, first_job: FinetuneJob, model: str
) -> None:
    """For a crowd that stayed it would make several times more than MOST_CHOICES answers."""
    refused, made = asyncio.run(overrun(cluster, model))
    until(lambda: metric_of(cluster, "luthier_sequences") == 0, SECONDS, "an engine that nobody asks")
    assert answer(cluster, BASE, "the fox")
    until(lambda: num_in_engine(cluster) == 0, SECONDS, "an engine that is at nothing")
    assert metric_of(cluster, MADE) - made < MOST_CHOICES * LONG
    assert {response.status_code for response in refused} == {429}
    assert {response.json()["error"]["code"] for response in refused} == {"overloaded"}
    assert all(1 <= int(response.headers["retry-after"]) <= 30 for response in refused)
    assert answer(cluster, "first", "the fox") == FIRST["the fox"]


async def leave(cluster: LiveCluster, statement: str) -> None:
    """As soon as the engine has begun with it."""
    before = metric_of(cluster, MADE)
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with httpx.AsyncClient(base_url=cluster.url, headers=headers, timeout=SECONDS) as session:
        asked = asyncio.create_task(session.post("/luthier/v1/sql", json={"statement": statement}))
        await asyncio.to_thread(until, lambda: metric_of(cluster, MADE) > before, SECONDS, "a token for a row")
        assert not asked.done()
        asked.cancel()


def test_who_leaves_a_statement_stops_it(cluster: LiveCluster) -> None:
    before, options = metric_of(cluster, MADE), f"{{'max_tokens': {LONG}}}"
    call = f"SNOWFLAKE.CORTEX.COMPLETE('{BASE}', [{{'role': 'user', 'content': 'the'}}], {options})"
    asyncio.run(leave(cluster, f"SELECT COUNT({call}) FROM RANGE({NUM_ROWS})"))
    until(lambda: num_in_engine(cluster) == 0, SECONDS, "an engine that is at nothing")
    assert metric_of(cluster, MADE) - before < NUM_ROWS * LONG / 4


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(lambda cluster: engine_processes(cluster)[-1], id="vllm"),
        pytest.param(lambda cluster: cluster.roles(REPLICA)[0], id="replica"),
    ],
)
def test_a_killed_engine_comes_back_by_itself(
    cluster: LiveCluster, first_job: FinetuneJob, victim: Callable[[LiveCluster], psutil.Process]
) -> None:
    old = [*cluster.roles(REPLICA), *engine_processes(cluster)]
    before = answer(cluster, BASE, "the fox")
    killed = victim(cluster)
    pool = ThreadPoolExecutor(2)
    whole = pool.submit(always_in_flight, cluster)
    other = pool.submit(answer, cluster, REAL, "Count to ten.")
    until(lambda: metric_of(cluster, "luthier_sequences") >= NUM_IN_FLIGHT, SECONDS, "answers that are under way")
    stream = cluster.openai.completions.create(model=BASE, prompt="the", max_tokens=LONG, stream=True, **ON)
    next(iter(stream))
    killed.kill()
    with pytest.raises((openai.APIError, openai.APIConnectionError)):
        list(stream)
    assert isinstance(whole.exception(SECONDS), openai.InternalServerError)
    assert (whole.exception().status_code, whole.exception().code) == (503, "unavailable")
    assert other.result(SECONDS)
    assert answers_again(cluster, "first", "the fox") == FIRST["the fox"]
    assert answers_again(cluster, BASE, "the fox") == before
    assert not psutil.wait_procs(old, timeout=SECONDS)[1]
    assert 1 + len(engine_processes(cluster)) == len(old)


def test_a_run_that_diverges_is_billed_for_what_it_trained(cluster: LiveCluster, wild_job: FinetuneJob) -> None:
    described = ended(wild_job)
    assert (described["status"], described["error"]["code"]) == ("ERROR", "LOSS_DIVERGED"), described
    named = re.search(r"at step (\d+) of (\d+)", described["error"]["message"])
    assert named, described["error"]
    metrics = wild_job.metrics()
    assert metrics["step"] == list(range(1, int(named[1])))
    assert int(named[2]) == described["progress_details"]["total_steps"]
    assert bill_of(cluster, wild_job)["trained_tokens"] == sum(metrics["num_tokens"]) > 0
