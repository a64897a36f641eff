"""Requests go past Serve's wrapper, and Serve still knows of them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ray.exceptions import RayActorError
from ray.serve.generated.serve_pb2 import ApplicationStatus, ApplicationStatusInfo, StatusOverview
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.serve import ray_replica
from luthier.serve.ray_replica import ShortWay


class Metrics:
    """What Serve's metrics of a replica are told."""

    def __init__(self) -> None:
        self.num_ongoing, self.recorded = 0, list[dict[str, Any]]()

    def inc_num_ongoing_requests(self, _metadata: object) -> None:
        self.num_ongoing += 1

    def dec_num_ongoing_requests(self, _metadata: object) -> None:
        self.num_ongoing -= 1

    def record_request_metrics(self, **told: Any) -> None:
        self.recorded.append(told)


def saying(text: str, metrics: Metrics | None = None) -> ASGIApp:
    """Answers with its name, its root path and how many requests were open."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"].endswith("/fault"):
            raise ValueError(text)
        body = f"{text} {scope.get('root_path', '')} {metrics.num_ongoing if metrics else ''}"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    return app


def short_way(prefix: str, metrics: Metrics) -> ShortWay:
    name = SimpleNamespace(app_name="tiny")
    replica = SimpleNamespace(_metrics_manager=metrics, _route_prefix=prefix, _deployment_id=name)
    return ShortWay(replica, saying("short", metrics), saying("long"))


def get(app: ASGIApp, path: str) -> str:
    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica") as client:
            return (await client.get(path)).text

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("prefix", "path", "answer"),
    [
        ("/m/tiny", "/m/tiny/v1/models", "short /m/tiny 1"),
        ("/m/tiny", "/-/healthz", "long  "),
        ("/m/tiny", "/m/tiny2/v1/models", "long  "),
        ("/m/tiny", "/v1/models", "long  "),
        ("/", "/v1/models", "short  1"),
        ("/", "/-/routes", "long  "),
    ],
)
def test_only_an_apps_own_paths_go_the_short_way(prefix: str, path: str, answer: str) -> None:
    metrics = Metrics()
    assert get(short_way(prefix, metrics), path) == answer
    assert metrics.num_ongoing == 0
    assert len(metrics.recorded) == answer.startswith("short")


def test_serve_is_told_of_each_request_how_it_ended(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    app = short_way("/m/tiny", metrics)
    get(app, "/m/tiny/v1/models")
    with pytest.raises(ValueError, match="short"):
        get(app, "/m/tiny/fault")
    assert "failed" in caplog.text
    assert "ValueError: short" in caplog.text
    assert metrics.num_ongoing == 0
    well, ill = metrics.recorded
    assert (well["route"], well["is_error"]) == ("/m/tiny", False)
    assert (ill["route"], ill["is_error"], ill["exception_type"]) == ("/m/tiny", True, "ValueError")
    assert well["latency_ms"] >= 0


@pytest.mark.parametrize(
    ("told", "waits"),
    [("APPLICATION_STATUS_DELETING", 0.0), ("APPLICATION_STATUS_RUNNING", 10.0), (RayActorError(), 10.0)],
    ids=["all go", "one of several goes", "nobody knows"],
)
def test_who_goes_alone_waits_until_haproxy_has_heard(
    monkeypatch: pytest.MonkeyPatch, told: str | Exception, waits: float
) -> None:
    waited: list[float] = []

    async def statuses(names: list[str]) -> list[bytes]:
        if isinstance(told, Exception):
            raise told
        assert names == ["tiny"]
        status = ApplicationStatusInfo(status=ApplicationStatus.Value(told))
        return [StatusOverview(app_status=status).SerializeToString()]

    async def drain(_replica: object, seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(ray_replica, "drain_behind_haproxy", drain)
    controller = SimpleNamespace(get_serve_statuses=SimpleNamespace(remote=statuses))
    replica = SimpleNamespace(_controller_handle=controller, _deployment_id=SimpleNamespace(app_name="tiny"))
    asyncio.run(ray_replica._drain(replica, 10.0))
    assert waited == [waits]
