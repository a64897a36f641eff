"""`luthier up` on a cluster that is up: nothing where nothing has changed, else no more than what has."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from luthier.cli import cluster, front
from luthier.cli.cluster_record import Cluster, Say, read_record
from luthier.errors import ClusterError, InvalidInput
from luthier.platform.base_models import Catalog, load_catalog
from luthier.platform.settings import Settings
from luthier.serve import app, deployments
from tests.factories import BASE_MODEL


class Serve:
    """What `up` asked of Ray Serve."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[tuple[str, ...]] = []
        self.ended: list[str] = []
        self.too_large: dict[str, str] = {}
        monkeypatch.setattr(cluster, "_answers", lambda _cluster: True)
        monkeypatch.setattr(cluster, "connected", self._connected)
        monkeypatch.setattr(cluster, "_wait_ready", lambda _settings, _cluster: None)
        monkeypatch.setattr(cluster, "_fetch", lambda _settings, _catalog, _say: None)
        monkeypatch.setattr(cluster, "set_environment", lambda _settings, _address: None)
        monkeypatch.setattr(deployments, "beyond_nodes", lambda base: self.too_large.get(base.name))
        monkeypatch.setattr(app, "start_doors", self._start)
        monkeypatch.setattr(app, "end_engines", self._end)

    @contextmanager
    def _connected(self, _cluster: Cluster) -> Iterator[None]:
        yield

    def _start(self, settings: Settings, _catalog: Catalog, host: str) -> None:
        assert host == "127.0.0.1"
        self.started.append(settings.serve_base_models)

    def _end(self, base_models: Iterable[str]) -> None:
        self.ended += base_models


@pytest.fixture
def ray_serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    return Serve(monkeypatch)


def be_up(settings: Settings, root_pid: int | None = 1) -> Cluster:
    """Leaves what an `up` would have left."""
    catalog = load_catalog(settings)
    running = Cluster(
        id="0123456789abcdef",
        address="127.0.0.1:6399",
        root_pid=root_pid,
        url="http://127.0.0.1:8000",
        dashboard=None,
        base_models=settings.serve_base_models,
        haproxy=root_pid is not None,
        content=cluster._content(settings, catalog),
    )
    (settings.home / "haproxy").mkdir()
    front.instruct(settings, catalog, "/bin/echo")
    (settings.home / "cluster.json").write_text(running.model_dump_json())
    return running


def add_other(settings: Settings) -> None:
    other = BASE_MODEL.format(path="/nowhere").replace('"tiny"', '"other"').replace("tests/tiny", "tests/other")
    (settings.home / "base_models" / "other.toml").write_text(other)


def up(settings: Settings) -> cluster.Started:
    return cluster.up(settings, None, lambda _text: None)


def test_nothing_has_changed(settings: Settings, ray_serve: Serve) -> None:
    running = be_up(settings)
    assert up(settings) == cluster.Started(cluster=running, was_up=True)
    assert ray_serve.started == []


def test_a_row_has_changed(settings: Settings, ray_serve: Serve) -> None:
    be_up(settings)
    row = settings.home / "base_models" / "tiny.toml"
    row.write_text(row.read_text() + "max_replicas = 3\n")
    assert up(settings).was_up
    assert (ray_serve.started, ray_serve.ended) == ([("tiny",)], [])
    assert json.loads((settings.home / "haproxy" / "front.json").read_text())["several"] == ["tiny"]
    assert up(settings).was_up
    assert len(ray_serve.started) == 1


def test_another_base_model_takes_the_place_of_one(settings: Settings, ray_serve: Serve) -> None:
    be_up(settings)
    add_other(settings)
    changed = settings.model_copy(update={"serve_base_models": ("other",)})
    assert up(changed).cluster.base_models == ("other",)
    assert (ray_serve.started, ray_serve.ended) == ([("other",)], ["tiny"])
    assert read_record(changed) == up(changed).cluster


@pytest.mark.parametrize("is_ours", [True, False])
def test_an_engine_that_is_larger_than_all_nodes(settings: Settings, ray_serve: Serve, is_ours: bool) -> None:
    """Another's Ray may bring a node more."""
    be_up(settings, root_pid=1 if is_ours else None)
    add_other(settings)
    changed = settings.model_copy(update={"serve_base_models": ("tiny", "other")})
    ray_serve.too_large["other"] = "An engine of other takes 16 GPUs."
    said: list[str] = []
    if is_ours:
        with pytest.raises(InvalidInput, match=r"takes 16 GPUs\."):
            cluster.up(changed, None, said.append)
        assert ray_serve.started == []
    else:
        cluster.up(changed, "127.0.0.1:6399", said.append)
        assert "An engine of other takes 16 GPUs. It waits for a larger one." in said
        assert ray_serve.started == [("tiny", "other")]


def test_haproxy_is_told_anew_before_weights_are_fetched(
    settings: Settings, ray_serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_up(settings)
    add_other(settings)
    file = settings.home / "haproxy" / "front.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "direct": True}))

    def fetch(_settings: Settings, _catalog: Catalog, _say: Say) -> None:
        told = json.loads(file.read_text())
        assert "direct" not in told
        assert told["engines"] == ["tiny"], "the other one has no weights yet"
        raise ClusterError("no room for weights")

    monkeypatch.setattr(cluster, "_fetch", fetch)
    with pytest.raises(ClusterError, match="no room"):
        up(settings.model_copy(update={"serve_base_models": ("tiny", "other")}))


def test_ctrl_c_leaves_what_answered(settings: Settings, ray_serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    running, said = be_up(settings), list[str]()

    def fetch(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "_fetch", fetch)
    with pytest.raises(KeyboardInterrupt):
        cluster.up(settings.model_copy(update={"max_body_mib": 1}), None, said.append)
    assert said == ["what answered before goes on; not all that has changed was replaced"]
    assert read_record(settings) == running


def test_a_ray_that_was_joined_must_be_named(settings: Settings, ray_serve: Serve) -> None:
    be_up(settings, root_pid=None)
    with pytest.raises(ClusterError, match="up --address 127"):
        up(settings.model_copy(update={"max_body_mib": 1}))
    assert ray_serve.started == []
