"""What stops `luthier up` before it starts anything: one line on stderr, its own exit status, nothing half-started."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from luthier.cli.ray_head import MARK
from luthier.errors import ClusterError, InvalidInput, NotFound
from tests.factories import BASE_MODEL

Up = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def up(tmp_path: Path) -> Up:
    """`luthier up` in a home of its own."""

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        port, ray_port, dashboard_port = map(str, free(3))
        ports = {"LUTHIER_PORT": port, "LUTHIER_RAY_PORT": ray_port, "LUTHIER_DASHBOARD_PORT": dashboard_port}
        env = {"LUTHIER_HOME": str(tmp_path), "LUTHIER_CACHE": str(tmp_path / "cache"), **ports, **settings}
        command = [sys.executable, "-m", "luthier.cli.main", "up", *arguments]
        return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)

    return run


def free(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def check_refused(done: subprocess.CompletedProcess[str], home: Path, status: int, *words: str) -> None:
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert [word for word in words if word not in line] == []
    assert not (home / "cluster.json").exists()
    assert [process for process in psutil.process_iter() if _is_of(process, home)] == []


def _is_of(process: psutil.Process, home: Path) -> bool:
    try:
        environ = process.environ()
    except psutil.Error:
        return False
    return MARK in environ and environ.get("LUTHIER_HOME") == str(home)


@pytest.mark.parametrize("name", ["LUTHIER_PORT", "LUTHIER_RAY_PORT", "LUTHIER_DASHBOARD_PORT"])
def test_a_port_that_is_taken(up: Up, tmp_path: Path, name: str) -> None:
    with listening() as port:
        check_refused(up(**{name: str(port)}), tmp_path, ClusterError.exit, str(port), name)


def test_what_old_uploads_left_is_swept(up: Up, tmp_path: Path) -> None:
    left = tmp_path / "storage" / "uploads" / "left"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    with listening() as port:
        up(LUTHIER_PORT=str(port))
    assert not left.exists()


def test_a_ray_that_does_not_answer(up: Up, tmp_path: Path) -> None:
    (port,) = free(1)
    check_refused(up("--address", f"127.0.0.1:{port}"), tmp_path, ClusterError.exit, f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["ray.example", "127.0.0.1:x", ":6379"])
def test_an_address_that_is_none(up: Up, tmp_path: Path, address: str) -> None:
    check_refused(up("--address", address), tmp_path, ClusterError.exit, address, "HOST:PORT")


def test_a_home_that_cannot_be_written(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    check_refused(up(LUTHIER_HOME=str(file / "home")), tmp_path, ClusterError.exit, str(file), "LUTHIER_HOME")


def test_a_base_model_that_nobody_knows(up: Up, tmp_path: Path) -> None:
    done = up(LUTHIER_SERVE_BASE_MODELS='["gpt-0"]')
    check_refused(done, tmp_path, NotFound.exit, "gpt-0", "gpt-oss-20b")


def test_a_setting_that_is_none(up: Up, tmp_path: Path) -> None:
    check_refused(up(LUTHIER_PORT="http"), tmp_path, InvalidInput.exit, "LUTHIER_PORT", "integer")


def test_a_cache_that_cannot_be_written(up: Up, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = up(LUTHIER_CACHE=str(tmp_path / "file" / "cache"))
    assert done.returncode == ClusterError.exit
    assert done.stderr.splitlines()[-1].endswith("cannot be written (Not a directory). Set LUTHIER_CACHE.")


def test_heads_that_workers_cannot_share(up: Up, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text('{"num_attention_heads": 9, "num_key_value_heads": 3}')
    (tmp_path / "base_models").mkdir()
    row = BASE_MODEL.format(path=tmp_path / "weights")
    (tmp_path / "base_models" / "tiny.toml").write_text(f"{row}tensor_parallel_size = 2\n")
    done = up(LUTHIER_SERVE_BASE_MODELS='["tiny"]')
    assert "fetching base model tiny" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("tensor_parallel_size can be 1, 3, 9, not 2.")
    assert (done.returncode, (tmp_path / "cluster.json").exists()) == (InvalidInput.exit, False)


def test_an_up_while_another_is_at_work(up: Up, tmp_path: Path) -> None:
    with FileLock(tmp_path / "cluster.lock"):
        check_refused(up(), tmp_path, ClusterError.exit, "at work", str(tmp_path))
