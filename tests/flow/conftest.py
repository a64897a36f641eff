"""The whole HTTP app over a real store, DuckDB and tokenizer; only Ray and vLLM are doubles."""

import asyncio
import csv
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.api import build_api, build_direct
from luthier.serve.services import make_services
from tests.factories import KEY, add_admin, make_finished, make_progress, make_settings
from tests.fakes import EchoEngine, Launcher, LocalCompletions
from tests.waiting import SECONDS

CHAT = "/v1/chat/completions"
TYPES = {402: "insufficient_quota", 429: "rate_limit_error"}
ROWS = [(f"question {number}", f"answer {number}") for number in range(10)]
SELECT = "SELECT question AS prompt, answer AS completion FROM faq"


@pytest.fixture
def settings(home: Path, tiny_model: Path) -> Settings:
    return make_settings(home, tiny_model, max_body_mib=1, max_upload_mib=2)


@pytest.fixture
def registry(settings: Settings, launcher: Launcher) -> Registry:
    registry = Registry(settings, launcher)
    add_admin(registry)
    return registry


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine()


@pytest.fixture
def completions(settings: Settings, registry: Registry, engine: EchoEngine) -> LocalCompletions:
    return LocalCompletions(settings, registry, engine)


@pytest.fixture
def app(settings: Settings, registry: Registry, completions: LocalCompletions) -> FastAPI:
    return build_api(make_services(settings, registry, completions))


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    """With the admin's key."""
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
def faq(api: TestClient) -> str:
    """A table of ten rows: question, answer."""
    upload(api, "faq", csv_bytes(ROWS))
    return "faq"


@pytest.fixture
def train(registry: Registry, settings: Settings) -> Callable[[str], Path]:
    """Does what a supervisor would: runs a pending job to SUCCESS; the folder of its adapter."""

    def run(job_id: str) -> Path:
        adapter = settings.storage / "adapters" / job_id
        adapter.mkdir(parents=True)
        (adapter / "training_results.csv").write_text("step,epoch,training_loss,validation_loss\n1,1,0.5,0.75\n")
        (adapter / "adapter_model.safetensors").write_bytes(b"weights")
        registry.jobs.tick()
        registry.jobs.report(job_id, make_progress())
        registry.jobs.finish(job_id, make_finished(adapter))
        return adapter

    return run


@pytest.fixture
def tuned(api: TestClient, faq: str, train: Callable[[str], Path]) -> str:
    """A model that is ready."""
    job = create(api).json()
    train(job["id"])
    return "tuned"


@pytest.fixture
def direct(settings: Settings, registry: Registry, completions: LocalCompletions) -> ASGIApp:
    """The door of the tiny base model's replica."""
    return build_direct(make_services(settings, registry, completions, "tiny"))


@pytest.fixture
def doors(app: FastAPI, direct: ASGIApp) -> ASGIApp:
    """All that one port of a cluster answers."""

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path", "").startswith("/m/tiny/"):
            await direct({**scope, "root_path": "/m/tiny"}, receive, send)
        else:
            await app(scope, receive, send)

    return route


@pytest.fixture
def server(doors: ASGIApp) -> Iterator[str]:
    """The doors behind a real socket; their URL."""
    started = _Server(uvicorn.Config(doors, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=started.run, daemon=True)
    thread.start()
    assert started.ready.wait(SECONDS)
    port = started.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    started.should_exit = True
    thread.join(SECONDS)


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def csv_bytes(rows: list[tuple[str, str]], header: tuple[str, str] = ("question", "answer")) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def upload(api: TestClient, name: str, body: bytes, filename: str = "data.csv", **params: Any) -> dict[str, Any]:
    response = api.post("/luthier/v1/tables", params={"name": name, "filename": filename, **params}, content=body)
    assert response.status_code == 201, response.text
    table: dict[str, Any] = response.json()
    return table


def create(api: TestClient, key: str | None = None, dry_run: bool = False, **given: Any) -> Any:
    """POST /luthier/v1/jobs."""
    body = {"model": "tuned", "base_model": "tiny", "training_data": SELECT, **given}
    headers = {"Idempotency-Key": key} if key else {}
    return api.post("/luthier/v1/jobs", json=body, headers=headers, params={"dry_run": True} if dry_run else {})


def sql(api: TestClient, statement: str) -> Any:
    """The one value of a statement."""
    response = api.post("/luthier/v1/sql", json={"statement": statement})
    assert response.status_code == 200, response.text
    ((value,),) = response.json()["rows"]
    return value


def error_of(response: Any, status: int, code: str) -> str:
    """The message of an error with this status and code, in the form that all routes share."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["type"] == TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    assert response.headers["x-request-id"].startswith("req_")
    message: str = error["message"]
    assert "\n" not in message
    return message


async def call(door: ASGIApp, receive: Callable[[], Any], path: str = CHAT, key: str = KEY) -> list[Message]:
    """What the door sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")],
    }
    await asyncio.wait_for(door(scope, receive, send), SECONDS)
    return sent
