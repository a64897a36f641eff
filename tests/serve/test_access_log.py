"""The access log: whole lines from many writers, files that turn, and a disk that fails."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from luthier.serve.doors.middleware import Logged
from luthier.serve.metering import access_log
from luthier.serve.metering.access_log import AccessLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "access.jsonl"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def files(file: Path) -> list[Path]:
    """All of the log, the youngest first."""
    return sorted(each for each in file.parent.iterdir() if each.suffix != ".lock")


def test_a_line(file: Path) -> None:
    log = AccessLog(file)
    log.add({"id": "req_1", "model": "a\u2028b\n", "error": None, "status": 200})
    log.write()
    (line,) = lines(file)
    assert line.pop("time").endswith("+00:00")
    assert line == {"id": "req_1", "model": "a\u2028b\n", "status": 200}
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_writes_by_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "WRITE_SECONDS", 0.01)
    log = AccessLog(file)
    log.start()
    for number in range(3):
        log.add({"id": number})
        wait_for(file, number + 1)
    assert [line["id"] for line in lines(file)] == [0, 1, 2]


def test_files_turn_when_they_are_full(file: Path) -> None:
    log = AccessLog(file, max_bytes=1)
    for number in range(access_log.MAX_OLD + 3):
        log.add({"id": number})
        log.write()
    assert [lines(each)[0]["id"] for each in files(file)] == [6, 5, 4, 3, 2]


def test_while_the_disk_takes_nothing_it_says_so_once(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "WRITE_SECONDS", 0.01)
    log = AccessLog(file)
    tries: list[int] = []
    monkeypatch.setattr(log, "write", lambda: fail(tries))
    log.start()
    while len(tries) < 3:
        log.add({"id": 1})
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def fail(tries: list[int]) -> None:
    tries.append(1)
    raise OSError("no space left")


WRITER = """
import sys
from pathlib import Path
from luthier.serve.metering.access_log import AccessLog

log = AccessLog(Path(sys.argv[1]), max_bytes=100_000)
for batch in range(100):
    for number in range(10):
        log.add({"id": f"{sys.argv[2]}-{batch}-{number}"})
    log.write()
"""


def test_many_processes_write_one_file(file: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(each)]) for each in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = Counter(line["id"] for each in files(file) for line in lines(each))
    assert len(found) == 3000
    assert set(found.values()) == {1}


def wait_for(file: Path, num_lines: int) -> None:
    while not file.exists() or len(file.read_text().splitlines()) < num_lines:
        pass


def test_who_leaves_in_the_middle_of_a_body_is_no_fault(file: Path) -> None:
    async def leaving(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ClientDisconnect

    log = AccessLog(file)
    scope = {"type": "http", "method": "POST", "path": "/v1/files", "state": {"id": "req_1"}}
    asyncio.run(Logged(leaving, log)(scope, None, None))
    log.write()
    (line,) = lines(file)
    assert (line["path"], line["status"]) == ("/v1/files", 499)
