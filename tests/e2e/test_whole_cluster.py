"""The cluster as a whole dies, comes back, goes down, joins a Ray that is not its own. Last: it ends the cluster."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.callers import ON
from tests.e2e.jobs import FIRST, check_same_adapter, check_success, start_long
from tests.e2e.live import BASE, SECONDS, LiveCluster, clean, free_ports, until

LAST_TOKENS = 321

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@contextmanager
def other_ray() -> Iterator[tuple[str, psutil.Process]]:
    """A Ray of somebody else: its address and its root process."""
    port, dashboard, agent, metrics, client = free_ports(5)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    options = {
        "node-ip-address": "127.0.0.1",
        "port": port,
        "include-dashboard": "false",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "metrics-export-port": metrics,
        "ray-client-server-port": client,
        "object-store-memory": 200_000_000,
        "num-cpus": 2,
    }
    with tempfile.TemporaryDirectory(prefix="oray-", ignore_cleanup_errors=True) as folder:
        command += [f"--{name}={value}" for name, value in {**options, "temp-dir": folder}.items()]
        process = subprocess.Popen(
            command,
            env=plain_environment(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        root = psutil.Process(process.pid)
        try:
            until(lambda: _answers(port), SECONDS, "the other Ray")
            yield f"127.0.0.1:{port}", root
        finally:
            tree = [root, *root.children(recursive=True)] if root.is_running() else []
            kill_all(tree)


def plain_environment() -> dict[str, str]:
    """Of a user who runs Ray without tokens, on loopback."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LUTHIER_"))}
    return own | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def kill_all(processes: list[psutil.Process]) -> None:
    """Some end by themselves when the first are killed."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not psutil.wait_procs(processes, timeout=SECONDS)[1]


def _answers(port: int) -> bool:
    code = f"import ray; ray.init('127.0.0.1:{port}', logging_level='ERROR'); print(ray.cluster_resources())"
    try:
        return not subprocess.run(
            [sys.executable, "-c", code], env=plain_environment(), capture_output=True, timeout=60, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def actors_of(address: str) -> set[str]:
    code = (
        f"import ray; ray.init('{address}', logging_level='ERROR')\n"
        "print(*[actor['name'] for actor in ray.util.list_named_actors(all_namespaces=True)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return set(done.stdout.split())


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


def down_beside_a_stream(cluster: LiveCluster) -> None:
    """It is answered to its end, and in the ledger."""
    stream = cluster.openai.completions.create(
        model=BASE, prompt="the", max_tokens=LAST_TOKENS, stream=True, stream_options={"include_usage": True}, **ON
    )
    next(stream)
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(list, stream)
        said = cluster.down()
        *_, last = reading.result(SECONDS)
    assert last.usage
    assert last.usage.completion_tokens == LAST_TOKENS
    assert "what is under way" in said
    assert "cutting off" not in said
    assert not any(file.stat().st_size for file in (cluster.home / "spool").glob("*/*.jsonl"))
    with sqlite3.connect(cluster.home / "luthier.db") as store:
        assert store.execute("SELECT count(*) FROM usage WHERE completion_tokens = ?", [LAST_TOKENS]).fetchone() == (1,)


def test_down_touches_no_other_ray_and_up_can_join_one(cluster: LiveCluster, tiny_model: Path) -> None:
    with other_ray() as (address, root):
        others = [root, *root.children()]
        down_beside_a_stream(cluster)
        assert all(process.is_running() for process in others)
        assert cluster.run("down").stdout.startswith("Nothing to stop")

        with tempfile.TemporaryDirectory(prefix="le2e-") as folder:
            with clean(LiveCluster(Path(folder), tiny_model)) as joined:
                joined.env |= plain_environment()
                joined.up("--address", address)
                assert joined.client.complete(BASE, "the fox", {"max_tokens": 4})["usage"]["completion_tokens"] == 4
                assert "luthier-registry" in actors_of(address)
            assert actors_of(address) == set()
        assert all(process.is_running() for process in others)
