"""Several replicas of one base model come and go with the load, are replaced and are killed, while clients go on."""

import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from luthier.errors import Unavailable
from luthier.serve.routing import TELL_SECONDS
from tests.e2e.callers import ON, Callers, by_sql, calling, in_turn, streamed, whole
from tests.e2e.live import BASE, LONG, REPLICA, SECONDS, LiveCluster, until
from tests.e2e.small.conftest import SCALING

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CROWD = 12
"""More requests at once than one replica is to have; those who call steadily are fewer."""
SHORT = 8
"""Tokens of an answer."""
PAUSE = 0.2
"""Of those who call steadily: they leave the processors to who starts."""
MEMORY = 6
"""Adapters in an engine's memory, after the update."""
NUM_ASKED = 8


@pytest.fixture(scope="module")
def growth(cluster: LiveCluster) -> list[Callers]:
    """Who called while one replica became two: a crowd, until the second began to start, and two all the time."""
    with calling(cluster, whole(BASE, SHORT), streamed(BASE, SHORT), pause=PAUSE) as steady:
        with calling(cluster, *[whole(BASE, LONG)] * CROWD) as crowd:
            until(lambda: len(cluster.roles(REPLICA)) == 2, SECONDS, "a second replica")
        until(lambda: list(at_the_door(cluster).values()) == [True, True], SECONDS, "its first answer")
        steady.wait()
    return [steady, crowd]


@pytest.fixture(scope="module")
def homes(cluster: LiveCluster, growth: list[Callers], foreign_adapter: Path) -> dict[str, str]:
    """For each of two replicas a tuned model whose requests all go there."""
    pair = until(lambda: both(cluster), SECONDS, "two replicas")
    found: dict[str, str] = {}
    for number in range(40):
        model = f"tuned{number}"
        cluster.client.models.import_(model, foreign_adapter, BASE)
        before = served_by_both(cluster)
        for _ in range(NUM_ASKED):
            cluster.openai.completions.create(model=model, prompt="the", max_tokens=SHORT)
        (home, num_there), *rest = (served_by_both(cluster) - before).items()
        assert (num_there, rest) == (NUM_ASKED, [])
        found.setdefault(home, model)
        if len(found) == len(pair):
            return found
    pytest.fail("all models went to one replica")


def test_with_more_requests_there_are_more_replicas(cluster: LiveCluster, growth: list[Callers]) -> None:
    assert [callers.failed for callers in growth] == [[], []]
    until(lambda: len(told_by_status(cluster)) == 2, SECONDS, "both in `luthier status`")


def test_sql_goes_where_the_adapter_is(cluster: LiveCluster, homes: dict[str, str]) -> None:
    """However the model is spelt there: by the gateway, to the replica that HAProxy sends its requests to."""
    time.sleep(3 * TELL_SECONDS)
    for home, model in homes.items():
        before = served_by_both(cluster)
        for spelling in (model, f"Public.{model}", f"{model}@1", f"LUTHIER.PUBLIC.{model.upper()}"):
            by_sql(cluster, spelling, SHORT)(cluster.openai)
        assert served_by_both(cluster) - before == {home: 4}


def test_a_killed_replica_is_missed_by_its_own_requests_alone(cluster: LiveCluster, homes: dict[str, str]) -> None:
    """Of two tuned models, each at home on one of the replicas. The other replica serves both until there are two.

    At HAProxy only one asks for a model at a time: of more, it would send some to the replica that has less to do.
    """
    (victim, lost), (other, kept) = homes.items()
    process = psutil.Process(until(lambda: both(cluster), SECONDS, "two replicas")[victim])
    own, theirs = (in_turn(streamed(model, LONG), whole(model, LONG)) for model in (kept, lost))
    with calling(cluster, own, pause=PAUSE) as safe, calling(cluster, by_sql(cluster, lost, SHORT)) as by_gateway:
        by_gateway.wait()
        stream = cluster.openai.completions.create(model=lost, prompt="the", max_tokens=LONG, n=16, stream=True, **ON)
        next(stream)
        process.kill()
        assert not psutil.wait_procs([process], timeout=SECONDS)[1]
        killed = time.monotonic()
        with pytest.raises(openai.APIError):
            list(stream)
        with calling(cluster, theirs, pause=PAUSE) as moved:
            until(lambda: holds(cluster, other, lost), SECONDS, "the model in the replica that is left")
            again = until(lambda: both(cluster), SECONDS, "two replicas again")
            moved.wait()
        safe.wait()
    assert victim not in again
    assert (safe.failed, moved.failed) == ([], [])
    assert [each for each in by_gateway.failed if each.began > killed or not isinstance(each.error, Unavailable)] == []


def test_a_stream_outlives_its_model(cluster: LiveCluster, homes: dict[str, str]) -> None:
    """Of so many answers that half of them wait for the others."""
    model, num = next(iter(homes.values())), 16
    stream = cluster.openai.completions.create(
        model=model, prompt=["the"] * 2, max_tokens=LONG, n=num, stream=True, **ON
    )
    next(stream)

    def rest() -> tuple[float, list[str]]:
        reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices if choice.finish_reason]
        return time.monotonic(), reasons

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(rest)
        cluster.client.models.drop(model)
        dropped = time.monotonic()
        ended, reasons = reading.result(SECONDS)
    assert ended > dropped
    assert reasons == ["length"] * (2 * num)
    until(lambda: is_unknown(cluster, model), SECONDS, "a model that is not found")


def test_with_fewer_requests_there_are_fewer_replicas(cluster: LiveCluster, growth: list[Callers]) -> None:
    """And no other: numbers of replicas that `up` finds changed replace none."""
    before = cluster.roles(REPLICA)
    with calling(cluster, whole(BASE, SHORT), streamed(BASE, SHORT), pause=PAUSE) as steady:
        cluster.set_engine(**{**SCALING, "scale_down_s": 1.0})
        cluster.up()
        until(lambda: len(cluster.roles(REPLICA)) == 1, SECONDS, "the end of a replica")
        steady.wait()
    assert steady.failed == []
    assert cluster.roles(REPLICA)[0] in before


def test_a_setting_that_changes_fails_no_request(cluster: LiveCluster) -> None:
    """Nor that of a client who was silent meanwhile, on the connection that it has."""
    old = cluster.roles(REPLICA)
    asks = whole(BASE, SHORT), whole(BASE, LONG), streamed(BASE, LONG), by_sql(cluster, BASE, SHORT)
    with httpx.Client(limits=httpx.Limits(keepalive_expiry=None), timeout=SECONDS) as silent:
        assert listed(cluster, silent) == 200
        with calling(cluster, *asks, pause=PAUSE) as callers:
            callers.wait()
            cluster.set_engine(**SCALING, max_cpu_loras=MEMORY)
            cluster.up()
            until(lambda: {engine["max_in_memory"] for engine in engines(cluster)} == {MEMORY}, SECONDS, "the new one")
            assert not psutil.wait_procs(old, timeout=SECONDS)[1]
            callers.wait()
        assert listed(cluster, silent) == 200
    assert callers.failed == []


def told_by_status(cluster: LiveCluster) -> dict[str, Any]:
    """Replicas as the command shows them."""
    told: dict[str, Any] = json.loads(cluster.run("status", "--json").stdout)["replicas"]
    return told


def engines(cluster: LiveCluster) -> list[dict[str, Any]]:
    """What each replica tells of its adapters."""
    told: list[dict[str, Any]] = cluster.client.call("GET", "/luthier/v1/engines")["engines"]
    return told


def served(cluster: LiveCluster) -> dict[str, int]:
    """Requests of tuned models that came to each replica."""
    return {engine["replica"]: engine["hits"] + engine["misses"] for engine in engines(cluster)}


def served_by_both(cluster: LiveCluster) -> Counter[str]:
    """One that is slow to tell may be left out."""
    return Counter(until(lambda: told if len(told := served(cluster)) == 2 else None, SECONDS, "both replicas"))


def holds(cluster: LiveCluster, replica: str, model: str) -> bool:
    """In memory."""
    held = [name for engine in engines(cluster) if engine["replica"] == replica for name in engine["in_memory"]]
    return any(name.partition("@")[0].endswith(f".{model}") for name in held)


def listed(cluster: LiveCluster, client: httpx.Client) -> int:
    """The status of a list of models from the engine's own door."""
    headers = {"Authorization": f"Bearer {cluster.key}"}
    return client.get(f"{cluster.url}/m/{BASE}/v1/models", headers=headers).status_code


def at_the_door(cluster: LiveCluster) -> dict[str, bool]:
    """Replicas that HAProxy finds in a few attempts, by when their counters began: whether they answered requests."""
    headers = {"Authorization": f"Bearer {cluster.key}"}
    told = [httpx.get(f"{cluster.url}/m/{BASE}/metrics", headers=headers, timeout=60) for _ in range(4)]
    counter = r"^vllm:generation_tokens_{}\{{.*\}} (\S+)$"
    began, made = (
        [re.findall(counter.format(name), answer.text, re.MULTILINE)[0] for answer in told if answer.status_code == 200]
        for name in ("created", "total")
    )
    return {each: float(num) > 0 for each, num in zip(began, made, strict=True)}


def both(cluster: LiveCluster) -> dict[str, int] | None:
    """The processes of two replicas, when both are reached."""
    deployment = cluster.dashboard("/api/serve/applications/")["applications"][BASE]["deployments"][BASE]
    running = {each["replica_id"]: each["pid"] for each in deployment["replicas"] if each["state"] == "RUNNING"}
    are_reached = len(running) == len(at_the_door(cluster)) == 2 and set(served(cluster)) == set(running)
    return running if are_reached else None


def is_unknown(cluster: LiveCluster, model: str) -> bool:
    try:
        cluster.openai.completions.create(model=model, prompt="the", max_tokens=1)
    except openai.NotFoundError:
        return True
    return False
