"""What a user sees of a cluster that runs: the command again, the Ray dashboard, its doors on loopback."""

import ipaddress
import json
from typing import Any

import httpx
import psutil
import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.live import BASE, HAPROXY, HAPROXY_MANAGER, REAL, SECONDS, LiveCluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_up_again_finds_it_up(cluster: LiveCluster) -> None:
    before = cluster.record
    assert "Luthier is up already." in cluster.up()
    assert cluster.record == before


def test_status_tells_what_runs(cluster: LiveCluster) -> None:
    told = cluster.run("status", "--json")
    assert told.returncode == 0
    status = json.loads(told.stdout)
    assert (status["up"], status["ready"], status["engines"]) == (True, True, {BASE: True, REAL: True})
    assert httpx.get(status["docs"], timeout=SECONDS).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_the_dashboard_asks_for_the_token(cluster: LiveCluster, headers: dict[str, str]) -> None:
    url = f"http://127.0.0.1:{cluster.dashboard_port}/api/v0/actors"
    assert httpx.get(url, headers=headers, timeout=SECONDS).status_code in (401, 403)
    assert (cluster.home / "ray.token").stat().st_mode & 0o777 == 0o600


def test_the_dashboard_shows_jobs_actors_and_applications(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    told = cluster.dashboard("/api/v0/actors?detail=1&limit=10000")["data"]["result"]["result"]
    actors = {actor["name"]: actor for actor in told}
    assert actors["luthier-registry"]["state"] == "ALIVE"
    assert actors[first_job.id]["class_name"] == "Supervisor"
    runs = {run["name"] for run in cluster.dashboard("/api/train/v2/runs/v1")["train_runs"]}
    assert first_job.id in runs
    until(lambda: statuses(cluster) == {"RUNNING"}, SECONDS, "applications that run")


def statuses(cluster: LiveCluster) -> set[str]:
    applications = cluster.dashboard("/api/serve/applications/")["applications"]
    return {applications[name]["status"] for name in ("gateway", BASE, REAL)}


def test_nothing_listens_beyond_loopback(cluster: LiveCluster) -> None:
    processes = cluster.processes()
    heard = [
        (connection.laddr.ip, connection.laddr.port, process.pid)
        for process in processes
        for connection in _connections(process)
        if connection.status == psutil.CONN_LISTEN
    ]
    ports = {port for _, port, _ in heard}
    assert {cluster.ray_port, cluster.dashboard_port, int(cluster.url.rpartition(":")[2])} <= ports
    assert [each for each in heard if not _is_loopback(each[0])] == []


@pytest.mark.parametrize("victim", [HAPROXY, HAPROXY_MANAGER])
def test_a_killed_haproxy_comes_back_by_itself(cluster: LiveCluster, victim: str) -> None:
    assert cluster.record["haproxy"]
    old = cluster.roles(HAPROXY)
    cluster.kill(victim)
    until(lambda: all(_has_ended(process) for process in old), SECONDS, "the end of the old HAProxy")
    until(lambda: _is_ready(cluster), SECONDS, "the API")
    assert cluster.client.complete(BASE, "the fox", {"max_tokens": 2})["usage"]["completion_tokens"] == 2


def _has_ended(process: psutil.Process) -> bool:
    """Whoever inherits an orphan may take a while to collect it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _is_ready(cluster: LiveCluster) -> bool:
    try:
        return httpx.get(f"{cluster.url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _connections(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections(kind="inet"))
    except psutil.NoSuchProcess:
        return []
