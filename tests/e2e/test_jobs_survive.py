"""kill -9 to each process of a running job: it ends in SUCCESS, billed once. And cancel, which must leave nothing."""

from pathlib import Path

import psutil
import pytest

from luthier.cli.client import FinetuneJob
from luthier.errors import Unavailable
from tests.e2e.jobs import LONG, MEMORISE, bill_of, check_same_adapter, check_success, start_long, step_of, table_of
from tests.e2e.live import BASE, JOB_SECONDS, REGISTRY, SECONDS, SUPERVISOR, WORKER, LiveCluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_cancel_leaves_nothing_behind(cluster: LiveCluster, tmp_path: Path) -> None:
    query = table_of(cluster, "longer_table", tmp_path, repeats=600)
    job = cluster.client.finetune.create("cancelled", BASE, query, options=LONG)
    until(lambda: step_of(job) > 50, JOB_SECONDS, "progress")
    running = [process for role in until(lambda: _parts(cluster), SECONDS, "its processes") for process in role]
    following = cluster.client.finetune.create(
        "after_cancel", BASE, table_of(cluster, "after_table", tmp_path), options=MEMORISE
    )
    assert following.describe()["status"] == "PENDING"

    text = next(iter(cluster.sql(f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CANCEL', '{job.id}')")[0].values()))
    assert text == f"Canceled Cortex Fine-tuning job: {job.id}"
    assert not psutil.wait_procs(running, timeout=SECONDS)[1]
    described = job.describe()
    assert described["status"] == "CANCELLED"
    bill = bill_of(cluster, job)
    assert 0 < bill["trained_tokens"] == described["progress_details"]["trained_tokens"]
    assert bill["trained_tokens"] < described["report"]["trained_tokens"]
    check_success(cluster, following, tmp_path)


def test_a_run_outlives_each_of_its_processes(cluster: LiveCluster, undisturbed: Path, tmp_path: Path) -> None:
    """Killed one after another in one run; it becomes the model that an undisturbed run becomes."""
    job = start_long(cluster, "kills", tmp_path)
    for num_victims, role in ((1, WORKER), (2, WORKER), (1, SUPERVISOR)):
        workers, supervisors = until(lambda: _parts(cluster), JOB_SECONDS, "two workers")
        for victim in (workers if role == WORKER else supervisors)[:num_victims]:
            victim.kill()
        assert not psutil.wait_procs(workers, timeout=SECONDS)[1]
        wait_for_a_step(job, f"a step after the death of {role}")
    described = check_success(cluster, job, tmp_path)
    assert described["attempt"] == 2  # the supervisor's end is the run's; all else is mended within it
    check_same_adapter(tmp_path, undisturbed)


def test_a_killed_client_and_registry_change_nothing(
    cluster: LiveCluster, first_job: FinetuneJob, undisturbed: Path, tmp_path: Path
) -> None:
    """Nor the model."""
    job = start_long(cluster, "without_registry", tmp_path)
    with cluster.started("finetune", "watch", job.id) as watcher:
        until(watcher.stderr.readline, SECONDS, "the first line of watch")
        watcher.kill()

    def known() -> object:
        """All but what the job may make meanwhile."""
        client = cluster.client
        jobs = {shown["id"]: shown["created_on"] for shown in client.finetune.show()}
        models = [model for model in client.models.list() if model["job_id"] != job.id]
        return jobs, models, client.tables.list(), client.usage("credits")

    before = known()
    cluster.kill(REGISTRY)
    assert until(lambda: _retried(known), SECONDS, "the registry") == before
    check_success(cluster, job, tmp_path)
    check_same_adapter(tmp_path, undisturbed)
    assert cluster.client.complete("first", "the fox") == "quick"


def wait_for_a_step(job: FinetuneJob, what: str) -> None:
    reached = step_of(job)
    until(lambda: step_of(job) > reached, JOB_SECONDS, what)


def _parts(cluster: LiveCluster) -> tuple[list[psutil.Process], list[psutil.Process]] | None:
    """Two workers and one supervisor; none of a job that has just ended."""
    workers, supervisors = cluster.roles(WORKER), cluster.roles(SUPERVISOR)
    return (workers, supervisors) if (len(workers), len(supervisors)) == (2, 1) else None


def _retried(ask: object) -> object:
    assert callable(ask)
    try:
        return ask()
    except Unavailable:
        return None
