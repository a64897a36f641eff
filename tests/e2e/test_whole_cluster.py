"""The cluster as a whole dies, comes back and goes down. Last: it ends the cluster."""

import itertools
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.callers import ON
from tests.e2e.jobs import FIRST, check_same_adapter, check_success, start_long
from tests.e2e.live import BASE, SECONDS, LiveCluster
from tests.e2e.other_ray import kill_all, other_ray

LAST_TOKENS = 321

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_after_a_kill_of_everything_up_brings_all_back(
    cluster: LiveCluster, first_job: FinetuneJob, undisturbed: Path, tmp_path: Path
) -> None:
    """And the job that ran becomes the model that it would have become."""
    job = start_long(cluster, "through_it_all", tmp_path)
    client = cluster.client

    def known() -> object:
        """All but what the job makes meanwhile."""
        jobs = {shown["id"]: shown["created_on"] for shown in client.finetune.show()}
        models = [model for model in client.models.list() if model["job_id"] != job.id]
        return jobs, models, client.tables.list(), client.usage("completions"), client.usage("storage")

    before = known()
    mine = cluster.processes()
    kill_all(mine)
    assert cluster.run("status").returncode == 1

    cluster.serve(BASE)
    assert "cleaning up" in cluster.run("up").stderr
    assert known() == before
    assert {prompt: client.complete("first", prompt) for prompt in FIRST} == FIRST
    described = check_success(cluster, job, tmp_path)
    check_same_adapter(tmp_path, undisturbed)
    assert described["attempt"] == 2
    assert "REQUEUED" in [event["type"] for event in job.events()]


def answered_until_refused(cluster: LiveCluster) -> int:
    """How many streams, one after the other: who let it in answers it to its end."""
    ask: dict[str, Any] = {"model": BASE, "prompt": "the", "max_tokens": LAST_TOKENS, **ON}
    for num in itertools.count():
        try:
            stream = cluster.openai.completions.create(stream=True, stream_options={"include_usage": True}, **ask)
        except (openai.APIConnectionError, openai.InternalServerError):
            return num
        *_, last = stream
        assert last.usage
        assert last.usage.completion_tokens == LAST_TOKENS
    raise AssertionError("never refused")


def down_beside_streams(cluster: LiveCluster) -> None:
    """However long it takes to come to it. They are in the ledger."""
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(answered_until_refused, cluster)
        said = cluster.down()
        num = reading.result(SECONDS)
    assert num > 0
    assert "what is under way" in said
    assert "cutting off" not in said
    assert not any(file.stat().st_size for file in (cluster.home / "spool").glob("*/*.jsonl"))
    with sqlite3.connect(cluster.home / "luthier.db") as store:
        counted = store.execute("SELECT count(*) FROM usage WHERE completion_tokens = ?", [LAST_TOKENS])
        assert counted.fetchone() == (num,)


def test_down_touches_no_other_ray(cluster: LiveCluster) -> None:
    with other_ray() as (_address, root):
        others = [root, *root.children()]
        down_beside_streams(cluster)
        assert all(process.is_running() for process in others)
        assert cluster.run("down").stdout.startswith("Nothing to stop")
