"""A replica's door and its engine's books: each request is one line of the access log, by whoever answered it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from luthier.errors import NotServed
from luthier.platform.options import Method
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.wire import Chunk
from luthier.serve.api import build_direct
from luthier.serve.asks import Ask
from luthier.serve.full_weights import application_name, with_full_weights
from luthier.serve.metering.access_log import AccessLog
from luthier.serve.services import make_services
from tests.factories import ADMIN, KEY, make_finished, make_job, make_settings
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import CHAT, call
from tests.serve.full_models import Applications

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "how are you"}]}
STREAMED = pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])


@pytest.fixture
def wait() -> float:
    """Seconds for a model that is being loaded."""
    return 0.05


@pytest.fixture
def settings(home: Path, tiny_model: Path, wait: float) -> Settings:
    return make_settings(home, tiny_model, full_model_wait_s=wait)


@pytest.fixture
def log(home: Path) -> AccessLog:
    return AccessLog(home / "logs" / "access.jsonl")


@pytest.fixture
def applications() -> Applications:
    return Applications()


@pytest.fixture
def direct(
    settings: Settings,
    registry: Registry,
    completions: LocalCompletions,
    log: AccessLog,
    applications: Applications,
) -> ASGIApp:
    """A replica's door, with models of all weights behind it."""
    return build_direct(with_full_weights(make_services(settings, registry, completions, "tiny", log), applications))


@pytest.fixture
def loading(registry: Registry, applications: Applications) -> str:
    """A model with weights of its own that is being loaded."""
    registry.jobs.submit(make_job("ft_1", "LUTHIER.PUBLIC.WHOLE"))
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished(method=Method.FULL))
    (version,) = registry.models.show(ADMIN)
    applications.loading.add(application_name(version))
    return "whole"


@pytest.fixture
def post(direct: ASGIApp) -> Callable[..., int]:
    """Sends a request; its status."""

    async def sent(given: dict[str, Any]) -> int:
        transport = httpx.ASGITransport(direct, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://luthier", headers=headers) as client:
            return (await client.post(CHAT, json={**ASK, **given})).status_code

    return lambda **given: asyncio.run(sent(given))


@pytest.fixture
def lines(log: AccessLog, home: Path, completions: LocalCompletions) -> Callable[[], list[tuple[str, int, str | None]]]:
    """By whom, status and error of each line."""

    def read() -> list[tuple[str, int, str | None]]:
        log.write()
        door = [json.loads(line) for line in (home / "logs" / "access.jsonl").read_text().splitlines()]
        found = [("door", line) for line in door] + [("engine", line) for line in completions.books.lines]
        return [(by, line["status"], line.get("error")) for by, line in found]

    return read


@STREAMED
def test_what_an_engine_answers_or_refuses(
    post: Callable[..., int], lines: Callable[[], Any], completions: LocalCompletions, is_streamed: bool
) -> None:
    assert post(stream=is_streamed) == 200
    assert post(stream=is_streamed, max_tokens=511) == 400
    with ExitStack() as held:
        held.enter_context(completions.admission("tiny").place(ADMIN.account, 600))
        assert post(stream=is_streamed) == 429
    assert lines() == [
        ("engine", 200, None),
        ("engine", 400, "context_length_exceeded"),
        ("engine", 429, "overloaded"),
    ]


@STREAMED
def test_what_is_refused_on_the_way_to_one(
    post: Callable[..., int], lines: Callable[[], Any], loading: str, is_streamed: bool
) -> None:
    assert post(stream=is_streamed, model=loading) == 503
    assert lines() == [("door", 503, "unavailable")]


@STREAMED
@pytest.mark.parametrize(
    ("error", "line"),
    [(NotServed("not here"), (404, "model_not_found")), (ZeroDivisionError(), (500, None))],
    ids=["known", "ours"],
)
def test_what_breaks_on_the_way_to_one(
    post: Callable[..., int],
    lines: Callable[[], Any],
    completions: LocalCompletions,
    monkeypatch: pytest.MonkeyPatch,
    is_streamed: bool,
    error: Exception,
    line: tuple[int, str | None],
) -> None:
    async def whole(_: Ask) -> Chunk:
        raise error

    async def stream(_: Ask) -> AsyncGenerator[Chunk, None]:
        raise error
        yield

    monkeypatch.setattr(completions, "whole", whole)
    monkeypatch.setattr(completions, "stream", stream)
    assert post(stream=is_streamed) == line[0]
    assert lines() == [("door", *line)]


@STREAMED
@pytest.mark.parametrize("wait", [60.0])
def test_who_leaves_on_the_way_to_one(
    direct: ASGIApp, lines: Callable[[], Any], loading: str, applications: Applications, is_streamed: bool
) -> None:
    asyncio.run(call(direct, client({"model": loading, "stream": is_streamed}, lambda: applications.starts)))
    assert lines() == [("door", 499, None)]


@STREAMED
def test_who_leaves_an_engine(direct: ASGIApp, lines: Callable[[], Any], engine: EchoEngine, is_streamed: bool) -> None:
    engine.hangs_after = 1
    asyncio.run(call(direct, client({"stream": is_streamed}, lambda: engine.num_hanging)))
    assert lines() == [("engine", 499, "client_gone")]


def client(given: dict[str, Any], leaves: Callable[[], object]) -> Callable[[], Any]:
    """Sends its body, and leaves when it is time."""
    messages = [{"type": "http.request", "body": json.dumps({**ASK, **given}).encode()}]

    async def receive() -> Message:
        while not messages and not leaves():
            await asyncio.sleep(0.001)
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
