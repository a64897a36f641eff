"""The servers of the serving benchmark: each starts in processes of its own, serves one model, and is gone afterwards.

All get the same engine arguments and the same environment. What Luthier does otherwise inside the engine (its own
products for LoRA on a CPU, the engine's worker in the engine's process, one computing thread for a model that small) is
its own: the peers run as they come.
"""

import json
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx

from benchmarks.processes import MARK, end
from luthier.cli.client import Client
from luthier.cli.profile import load_profile
from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.settings import Settings
from luthier.serve.engines.engine_args import engine_args
from tests.e2e.live import free_ports

BASE = "bench"
"""The model's name on all sides."""
ROOT = Path(__file__).parents[1]
START_SECONDS = 600.0
BALANCE = "1000000"
"""Credits: nobody ends them, but who is limited reserves each request's."""
PEER = {
    "VLLM_PLUGINS": "",  # as vLLM comes: ours replaces its LoRA products
    # The name misleads: 0 makes every listener of Ray bind to 127.0.0.1, on Linux too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class Setup:
    """What is served."""

    home: Path
    """Luthier's. Its catalog has the model, once for each name in base_models."""
    base_models: tuple[str, ...]
    doors: tuple[str, ...]
    """Luthier's: what stands before /chat/completions."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Folders of PEFT's by the names that requests ask for."""

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home)

    @property
    def engine(self) -> dict[str, object]:
        """vLLM's arguments, as Luthier gives them."""
        base = load_catalog(self.settings).get(BASE)
        return engine_args(base, base_model_dir(self.settings, base), use_gpu=False)

    def environment(self, mark: str) -> dict[str, str]:
        base = load_catalog(self.settings).get(BASE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "LUTHIER_", "VLLM_"))}
        return kept | {
            MARK: mark,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_CPU_KVCACHE_SPACE": str(base.engine.kv_cache_gib),
        }


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    mark: str
    doors: dict[str, str]
    """URLs up to /v1 by the names of the sides."""
    metrics: str
    has_adapters: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    ledger: Callable[[], tuple[int, int]] | None = None
    """Prompt and completion tokens that it has counted in all."""


Server = Callable[[Setup], AbstractContextManager[Running]]


@contextmanager
def luthier(setup: Setup) -> Iterator[Running]:
    """`luthier up` and down; keys, holds and metering on. Adapters stay in its home from one start to the next."""
    mark = f"luthier-{uuid.uuid4()}"
    port, ray_port, dashboard_port = free_ports(3)
    env = setup.environment(mark) | {
        "LUTHIER_HOME": str(setup.home),
        "LUTHIER_PORT": str(port),
        "LUTHIER_RAY_PORT": str(ray_port),
        "LUTHIER_DASHBOARD_PORT": str(dashboard_port),
        "LUTHIER_SERVE_BASE_MODELS": json.dumps(setup.base_models),
    }
    try:
        _luthier(env, "up")
        url, profile = f"http://127.0.0.1:{port}", load_profile(setup.settings)
        assert profile is not None
        client = Client(url, profile.api_key)
        client.credits.top_up(BALANCE)
        _import(client, setup.adapters)
        headers = {"Authorization": f"Bearer {profile.api_key}"}
        doors = {f"Luthier {path}": f"{url}{path}" for path in setup.doors}
        yield Running(mark, doors, f"{url}/metrics", headers=headers, ledger=lambda: _counted(client))
        _luthier(env, "down")
    finally:
        end(mark)


def vllm(reserved_cpus: int) -> Server:
    """vLLM's own server; it keeps so many CPUs free of the engine's threads."""

    @contextmanager
    def start(setup: Setup) -> Iterator[Running]:
        (port,) = free_ports(1)
        options = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", BASE]
        options += ["--disable-uvicorn-access-log", "--generation-config", "vllm", *flags(setup.engine)]
        if setup.adapters:
            options += ["--lora-modules", *(f"{name}={folder}" for name, folder in setup.adapters.items())]
        command = ["vllm.entrypoints.openai.api_server", *options]
        with _process(setup, "vLLM", command, port, {"VLLM_CPU_NUM_OF_RESERVED_CPU": str(reserved_cpus)}) as running:
            yield running

    return start


@contextmanager
def ray_serve_llm(setup: Setup) -> Iterator[Running]:
    """Ray's; it takes the base model alone, as adapters must lie in a cloud's storage."""
    (port,) = free_ports(1)
    command = ["benchmarks.serve_ray", str(port), BASE, json.dumps(setup.engine)]
    with _process(setup, "ray.serve.llm", command, port, {}) as running:
        yield running


def flags(arguments: Mapping[str, object]) -> list[str]:
    """Engine arguments as options of vLLM's command."""
    found = []
    for name, value in arguments.items():
        if value is not False:
            found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


@contextmanager
def _process(setup: Setup, side: str, command: list[str], port: int, own: dict[str, str]) -> Iterator[Running]:
    """A server that is one Python module."""
    mark, log, token = f"{side}-{uuid.uuid4()}", setup.home / f"{side}.log", setup.home / "bench.token"
    if not token.is_file():
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
    env = setup.environment(mark) | own | PEER
    env |= {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_TMPDIR": str(setup.home.parent)}
    with log.open("ab") as out:
        started = subprocess.Popen([sys.executable, "-m", *command], env=env, stdout=out, stderr=out, cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_models(f"{url}/v1/models", started, log)
        yield Running(mark, {side: f"{url}/v1"}, f"{url}/metrics", has_adapters=side == "vLLM")
    finally:
        end(mark)
        started.wait()


def _await_models(url: str, started: subprocess.Popen[bytes], log: Path) -> None:
    """Until it names its model."""
    deadline = time.monotonic() + START_SECONDS
    while not _names_models(url):
        if started.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(errors="replace").splitlines()[-30:]
            raise click.ClickException("\n".join([f"{log.stem} does not start:", *lines]))
        time.sleep(0.25)


def _names_models(url: str) -> bool:
    try:
        answer = httpx.get(url, timeout=5)
        return answer.status_code == 200 and any(each["id"] == BASE for each in answer.json()["data"])
    except httpx.HTTPError:
        return False


def _luthier(env: dict[str, str], verb: str) -> None:
    command = [sys.executable, "-m", "luthier.cli.main", verb]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise click.ClickException(f"luthier {verb}: {done.stderr[-3000:]}")


def _import(client: Client, adapters: Mapping[str, Path]) -> None:
    there = {model["model"].rpartition(".")[2] for model in client.models.list()}
    for name in adapters.keys() - there:
        client.models.import_(name, adapters[name], base_model=BASE)


def _counted(client: Client) -> tuple[int, int]:
    (row, *_) = [*client.usage("completions", group_by=("base_model",)), {}]
    return row.get("prompt_tokens", 0), row.get("completion_tokens", 0)
