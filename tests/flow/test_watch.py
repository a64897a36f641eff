"""What is seen of a job while it goes on: events, also as a stream; metrics; logs; gauges. Over a real socket."""

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

import luthier
from luthier.cli import client as client_module
from luthier.errors import NotFound, Unavailable
from luthier.platform.jobs import Event, EventType, JobError
from luthier.platform.registry.registry import Registry
from luthier.platform.run_files import MetricsWriter, RunFiles, answer_lines
from luthier.platform.settings import Settings
from luthier.serve import follow
from tests.factories import ADMIN, KEY, make_progress
from tests.fakes import Launcher
from tests.flow.conftest import create, error_of
from tests.platform.test_run_files import step
from tests.waiting import SECONDS


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.0)


@pytest.fixture
def job_id(api: TestClient, faq: str) -> str:
    found: str = create(api).json()["id"]
    return found


@pytest.fixture
def files(settings: Settings, job_id: str) -> RunFiles:
    return RunFiles(settings.storage / "runs" / job_id)


@pytest.fixture
def client(server: str) -> luthier.Client:
    return luthier.Client(server, KEY)


def messages(server: str, job_id: str, last_id: str | None = None, accept: str = "text/event-stream") -> Any:
    """An open stream."""
    headers = {"Authorization": f"Bearer {KEY}", "Accept": accept, **({"Last-Event-ID": last_id} if last_id else {})}
    return httpx.stream("GET", f"{server}/luthier/v1/jobs/{job_id}/events", headers=headers, timeout=SECONDS)


def told(message: ServerSentEvent) -> str:
    """An event's type, or where the progress is."""
    news = message.json()
    return str(news["type"] if message.event == "event" else f"{news['status']} {news['progress']}")


def started(number: int = 1) -> list[Event]:
    return [Event(time=number, type=EventType.TRAIN_STARTED, message=f"from step {number} of 4")]


def test_a_stream_from_start_to_end(server: str, job_id: str, registry: Registry, train: Callable[[str], Path]) -> None:
    seen = []
    with messages(server, job_id) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        stream = EventSource(response).iter_sse()
        for message in stream:
            seen.append(told(message))
            if seen[-1] == "PENDING 0.0":
                registry.jobs.tick()
            elif seen[-1] == "IN_PROGRESS 0.0":
                registry.jobs.report(job_id, make_progress(1), started())
            elif seen[-1] == "IN_PROGRESS 0.25":
                train(job_id)
    assert seen[:4] == ["CREATED", "CHECK_PASSED", "PENDING 0.0", "STARTED"]
    assert seen[4:] == ["IN_PROGRESS 0.0", "TRAIN_STARTED", "IN_PROGRESS 0.25", "COMPLETED", "SUCCESS 1.0"]


def test_a_stream_is_taken_up_again(server: str, job_id: str, registry: Registry) -> None:
    registry.jobs.tick()
    registry.jobs.report(job_id, make_progress(1), started())
    all_ids = [str(event.id) for event in registry.jobs.news(ADMIN, job_id).events]
    with messages(server, job_id, last_id=all_ids[1]) as response:
        stream = EventSource(response).iter_sse()
        first = [next(stream) for _ in range(3)]
    assert [told(message) for message in first] == ["STARTED", "TRAIN_STARTED", "IN_PROGRESS 0.25"]
    assert [message.id for message in first[:2]] == all_ids[2:]
    registry.jobs.fail(job_id, JobError(code="BAD", message="The loss is nan."), billable=True)
    with messages(server, job_id, last_id=all_ids[-1]) as response:
        last = list(EventSource(response).iter_sse())
    assert [told(message) for message in last] == ["FAILED", "ERROR 0.25"]
    assert last[-1].json()["error"] == {"code": "BAD", "message": "The loss is nan."}
    with messages(server, job_id, last_id=last[0].id) as response:
        assert response.status_code == 204


def test_the_events_as_a_list(api: TestClient, job_id: str) -> None:
    path = f"/luthier/v1/jobs/{job_id}/events"
    first, second = api.get(path).json()["events"]
    assert (first["type"], second["type"]) == ("CREATED", "CHECK_PASSED")
    assert api.get(path, params={"after": first["id"]}).json()["events"] == [second]
    assert "Last-Event-ID" in error_of(api.get(path, headers={"Last-Event-ID": "x"}), 400, "invalid_parameter_value")


def test_a_job_that_is_not_there_is_an_error_and_no_stream(server: str, api: TestClient) -> None:
    with messages(server, "ft_none") as response:
        response.read()
        error_of(response, 404, "not_found")


def test_a_client_that_goes_ends_its_stream(server: str, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, ended = follow._messages, threading.Event()

    async def watched(*args: Any) -> AsyncIterator[Any]:
        try:
            async for message in real(*args):
                yield message
        finally:
            ended.set()

    monkeypatch.setattr(follow, "_messages", watched)
    with messages(server, job_id) as response:
        stream = EventSource(response).iter_sse()
        assert [next(stream).event for _ in range(3)] == ["event", "event", "progress"]
        assert not ended.is_set()
    assert ended.wait(10)


def test_a_stream_is_kept_alive(server: str, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "KEEP_ALIVE_SECONDS", 0.01)
    with messages(server, job_id) as response:
        assert any(line.startswith(": ping") for line in response.iter_lines())


def test_what_keeps_a_stream_alive_is_no_news(
    client: luthier.Client, job_id: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looks = registry.jobs.news, itertools.count(1)
    pinged = threading.Event()

    def news(*args: Any) -> Any:
        if next(looks) == 3:
            assert pinged.wait(10)
            registry.jobs.cancel(ADMIN, job_id)
        return real(*args)

    monkeypatch.setattr(registry.jobs, "news", news)
    monkeypatch.setattr(follow, "KEEP_ALIVE_SECONDS", 0.01)
    real_iter = EventSource.iter_sse

    def iterated(self: EventSource) -> Iterator[ServerSentEvent]:
        for message in real_iter(self):
            if not message.data:
                pinged.set()
            yield message

    monkeypatch.setattr(EventSource, "iter_sse", iterated)
    kinds = [kind for kind, _ in client.finetune.job(job_id).follow()]
    assert kinds == ["event", "event", "progress", "event", "progress"]


def test_a_stream_is_a_call_a_look(
    server: str, job_id: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it ends after so many, for its reader to come again."""
    calls = []
    real = registry.jobs.news
    monkeypatch.setattr(registry.jobs, "news", lambda *args: calls.append(args[-1]) or real(*args))
    monkeypatch.setattr(follow, "MAX_LOOKS", 3)
    with messages(server, job_id) as response:
        assert len(list(EventSource(response).iter_sse())) == 3
    assert len(calls) == 1 + 3
    assert calls[0] == 0
    assert len(set(calls[1:])) == 1


def test_following_outlives_a_registry_that_is_away(
    client: luthier.Client, job_id: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that breaks off, and two that are refused; no event is lost or told twice."""
    real, faults = registry.jobs.news, iter([False, True, True, True])

    def news(*args: Any) -> Any:
        if next(faults, False):
            raise Unavailable("The registry does not answer (news).")
        return real(*args)

    monkeypatch.setattr(registry.jobs, "news", news)
    seen = []
    for kind, message in client.finetune.job(job_id).follow():
        seen.append(message["type"] if kind == "event" else message["status"])
        if seen.count("PENDING") == 2:
            registry.jobs.cancel(ADMIN, job_id)
    assert next(faults, None) is None
    assert seen == ["CREATED", "CHECK_PASSED", "PENDING", "PENDING", "CANCELED", "CANCELLED"]


def test_watching(client: luthier.Client, job_id: str, registry: Registry, train: Callable[[str], Path]) -> None:
    watched = client.finetune.job(job_id).watch()
    assert next(watched)["status"] == "PENDING"
    registry.jobs.tick()
    running = next(watched)
    assert (running["status"], running["report"]["rows"]) == ("IN_PROGRESS", 9)
    train(job_id)
    *_, last = watched
    assert (last["status"], last["progress"], last["trained_tokens"]) == ("SUCCESS", 1.0, 60)


def test_a_server_that_stays_away_is_given_up(job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "RESTART_SECONDS", 0.0)
    nobody = luthier.Client("http://127.0.0.1:9", KEY)  # the discard port: nothing listens
    with pytest.raises(Unavailable, match="Is it up"):
        next(nobody.finetune.job(job_id).watch())
    with pytest.raises(Unavailable, match="Is it up"):
        nobody.finetune.job(job_id).described()


def test_watching_a_job_that_is_not_there(client: luthier.Client) -> None:
    with pytest.raises(NotFound, match="ft_none"):
        next(client.finetune.job("ft_none").watch())


def test_metrics(api: TestClient, client: luthier.Client, job_id: str, files: RunFiles) -> None:
    job = client.finetune.job(job_id)
    assert job.metrics()["step"] == []
    writer = MetricsWriter(files.metrics)
    writer.add([step(number, loss=1 / number) for number in range(1, 40)])
    writer.add([step(40, loss=0.5, validation=0.75, speed=None)])
    metrics = job.metrics()
    assert metrics["step"] == list(range(1, 41))
    assert metrics["training_loss"][:2] == [1.0, 0.5]
    assert metrics["validation_loss"][38:] == [None, 0.75]
    assert metrics["tokens_per_second"][-1] is None
    assert job.metrics(since_step=38)["step"] == [39, 40]
    assert job.metrics(points=4)["step"] == [10, 20, 30, 40]
    error_of(api.get(f"/luthier/v1/jobs/{job_id}/metrics", params={"points": 0}), 400, "invalid_parameter_value")


def test_logs(client: luthier.Client, job_id: str, files: RunFiles) -> None:
    assert client.finetune.job(job_id).logs() == {}
    files.logs.mkdir(parents=True)
    (files.logs / "worker-0.log").write_text("step 1\n")
    assert client.finetune.job(job_id).logs() == {"worker-0.log": "step 1\n"}


def test_answers(client: luthier.Client, job_id: str, files: RunFiles) -> None:
    assert client.finetune.job(job_id).answers() == []
    files.answers.parent.mkdir(parents=True)
    files.answers.write_text(answer_lines(50, ["why?"], ["because"]) + '{"step": 100')  # one that is being written
    assert client.finetune.job(job_id).answers() == [{"step": 50, "prompt": "why?", "answer": "because"}]


@pytest.mark.parametrize("path", ["metrics", "logs", "answers"])
def test_files_of_a_job_that_is_not_the_callers(api: TestClient, path: str) -> None:
    error_of(api.get(f"/luthier/v1/jobs/ft_none/{path}"), 404, "not_found")
    error_of(api.get(f"/luthier/v1/jobs/..%2Fjobs/{path}"), 404, "not_found")


def gauges(api: TestClient) -> Iterator[tuple[str, dict[str, str], float]]:
    response = api.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def test_gauges(api: TestClient, job_id: str, registry: Registry, launcher: Launcher) -> None:
    counts = {labels["status"]: value for name, labels, value in gauges(api) if name == "luthier_jobs"}
    assert counts == {"PENDING": 1, "IN_PROGRESS": 0, "SUCCESS": 0, "ERROR": 0, "CANCELLED": 0}
    registry.jobs.tick()
    registry.jobs.report(job_id, make_progress(2, trained_tokens=20))
    found = {name: (labels, value) for name, labels, value in gauges(api) if name.startswith("luthier_job_")}
    labels = {"account": "main", "job": job_id, "model": "LUTHIER.PUBLIC.tuned"}
    assert found == {
        "luthier_job_step": (labels, 2),
        "luthier_job_total_steps": (labels, 4),
        "luthier_job_training_loss": (labels, 2.0),
        "luthier_job_trained_tokens": (labels, 20),
    }
    registry.jobs.cancel(ADMIN, job_id)
    assert not [name for name, *_ in gauges(api) if name.startswith("luthier_job_")]


def test_gauges_need_a_key(app: Any) -> None:
    with TestClient(app) as nobody:
        error_of(nobody.get("/metrics"), 401, "invalid_api_key")
