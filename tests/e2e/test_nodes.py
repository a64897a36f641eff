"""Luthier on a Ray of several nodes, and the loss of one. All are on this machine, on one file system."""

import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.callers import ON, calling, whole
from tests.e2e.jobs import FIRST, MEMORISE, check_success, start_long, table_of
from tests.e2e.live import BASE, JOB_SECONDS, LONG, REPLICA, SECONDS, WORKER, LiveCluster, clean, until
from tests.e2e.other_ray import RayNodes, plain_environment, ray_nodes
from tests.e2e.test_reconcile import differences

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ENGINES = {"engines": 1.0}
"""What a node has that engines run on: the head is none."""
LATE = 60.0
"""No request waits longer, whatever is lost."""
RETRYABLE = (openai.InternalServerError, openai.APIConnectionError)
SHORT = 8


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    """A head and a second node with one CPU each: a job of two workers needs both."""
    with ray_nodes(num_cpus=1) as found:
        found.join("second", num_cpus=1, **ENGINES)
        yield found


@pytest.fixture(scope="module")
def joined(nodes: RayNodes, tiny_model: Path) -> Iterator[LiveCluster]:
    with (
        tempfile.TemporaryDirectory(prefix="le2e-") as folder,
        clean(LiveCluster(Path(folder), tiny_model)) as live,
    ):
        live.env |= plain_environment()
        live.set_engine(**{f"resources.{name}": number for name, number in ENGINES.items()})
        live.up("--address", nodes.address)
        yield live


@pytest.fixture(scope="module")
def job(nodes: RayNodes, joined: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> FinetuneJob:
    """The job that made the model `first`, with a worker on each node."""
    query = table_of(joined, "first_table", tmp_path_factory.mktemp("first"))
    started = joined.client.finetune.create("first", BASE, query, options={**MEMORISE, "num_workers": 2})
    until(lambda: all(nodes.roles(name, WORKER) for name in nodes.roots), JOB_SECONDS, "a worker on each node")
    return started


def test_a_job_runs_on_both(joined: LiveCluster, job: FinetuneJob, tmp_path: Path) -> None:
    described = check_success(joined, job, tmp_path)
    (manifest,) = (joined.home / "storage" / "adapters").glob("*/luthier.json")
    assert json.loads(manifest.read_text())["job_id"] == described["id"] == job.id


def test_an_engine_on_the_second_answers_at_the_door_of_the_first(
    nodes: RayNodes, joined: LiveCluster, job: FinetuneJob
) -> None:
    assert (nodes.roles("head", REPLICA), len(nodes.roles("second", REPLICA))) == ([], 1)
    status = told(joined)
    assert {each["name"]: each["is_lost"] for each in status["nodes"]} == {"head": False, "second": False}
    assert [each["node"] for each in status["replicas"].values()] == ["second"]
    whole(BASE, SHORT)(joined.openai)
    assert {prompt: joined.client.complete("first", prompt) for prompt in FIRST} == FIRST
    (model,) = joined.client.models.list()
    assert model["proof"]["state"] == "proved"
    assert differences(joined) == {}


def test_the_loss_of_the_second(nodes: RayNodes, joined: LiveCluster, job: FinetuneJob, tmp_path: Path) -> None:
    """Under a stream and a job. All that ran there comes back when another node joins."""
    long = start_long(joined, "long", tmp_path)
    stream = joined.openai.completions.create(model="first", prompt="the", max_tokens=LONG, stream=True, **ON)
    next(stream)
    nodes.kill("second")
    killed = time.monotonic()
    with pytest.raises((openai.APIError, httpx.TransportError)):
        list(stream)
    assert time.monotonic() - killed < LATE

    with calling(joined, whole(BASE, SHORT), pause=0.2) as callers:
        status = until(lambda: told_of_loss(joined), SECONDS, "what is wrong in `luthier status`")
        assert {each["name"]: each["is_lost"] for each in status["nodes"]} == {"head": False, "second": True}
        assert re.search(r"node second \(.*\) is lost", status["reason"])
        assert "takes engines: 1 of one node (engine.resources), and no node has it" in status["reason"]
        until(lambda: "WORKER_LOST" in events_of(long) or "WAITING" in events_of(long), SECONDS, "an event of the job")
        until(lambda: callers.failed, SECONDS, "a refusal")
        nodes.join("third", num_cpus=1, **ENGINES)
        callers.wait()
    assert [each for each in callers.failed if not isinstance(each.error, RETRYABLE)] == []

    assert {prompt: joined.client.complete("first", prompt) for prompt in FIRST} == FIRST
    check_success(joined, long, tmp_path)
    status = told(joined)
    assert (status["ready"], [each["node"] for each in status["replicas"].values()]) == (True, ["third"])
    assert "reason" not in status
    assert differences(joined) == {}


def told(cluster: LiveCluster) -> dict[str, Any]:
    """By `luthier status`."""
    status: dict[str, Any] = json.loads(cluster.run("status", "--json").stdout)
    return status


def told_of_loss(cluster: LiveCluster) -> dict[str, Any] | None:
    status = told(cluster)
    return status if "engine.resources" in status.get("reason", "") else None


def events_of(job: FinetuneJob) -> list[str]:
    return [event["type"] for event in job.events()]
