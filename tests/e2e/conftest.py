"""One cluster a session, started by the real command and stopped by it, and two models tuned on it."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.asked import Asked, Run
from tests.e2e.jobs import FIRST, MEMORISE, SECOND, Answers, check_success, create_long, ended, table_of
from tests.e2e.live import BASE, REAL, LiveCluster, clean


@pytest.fixture(scope="session")
def cluster(tiny_model: Path) -> Iterator[LiveCluster]:
    """Up, with the tiny and the real base model served. The last test leaves it down."""
    with (
        tempfile.TemporaryDirectory(prefix="le2e-") as folder,
        clean(LiveCluster(Path(folder), tiny_model, (BASE, REAL))) as live,
    ):
        live.up()
        yield live


@pytest.fixture(scope="session")
def first_job(cluster: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> FinetuneJob:
    """The job that made the model `first`."""
    return _tuned(cluster, "first", FIRST, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="session")
def second_job(cluster: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> FinetuneJob:
    return _tuned(cluster, "second", SECOND, tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="session")
def undisturbed(cluster: LiveCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model of a long job lies that nothing happened to: what all other long jobs must make."""
    folder = tmp_path_factory.mktemp("undisturbed")
    check_success(cluster, create_long(cluster, "undisturbed", folder), folder)
    return folder


@pytest.fixture(scope="module")
def asked(engine: tuple[Asked, Run]) -> Asked:
    """The file's own engine."""
    return engine[0]


@pytest.fixture(scope="module")
def run(engine: tuple[Asked, Run]) -> Run:
    return engine[1]


def _tuned(cluster: LiveCluster, model: str, answers: Answers, folder: Path) -> FinetuneJob:
    """By SQL alone, as in Snowflake."""
    query = table_of(cluster, f"{model}_table", folder, answers)
    create = f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE', '{model}', '{BASE}', '{query}', '', '{json.dumps(MEMORISE)}')"
    job = cluster.client.finetune.job(next(iter(cluster.sql(create)[0].values())))
    assert ended(job)["status"] == "SUCCESS", (job.describe(), job.events())
    return job
