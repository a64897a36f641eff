"""`luthier down` waits for what is under way, not for ever, and stops a cluster at fault all the same."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from luthier.cli import cluster, ending
from luthier.cli.cluster_commands import down
from luthier.cli.cluster_record import Cluster, connected, record_file
from luthier.errors import ClusterError, NotConnected
from luthier.platform.registry import actor
from luthier.platform.settings import Settings
from luthier.serve import app

WAITS = "waiting up to 60 s for what is under way (`luthier down --now` does not)"


class Ray:
    """One that we started; what was done to it, in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.left: list[str] = []
        self.is_alive, self.fault = True, ""
        self.fault_of_doors: Exception | None = None
        self.num_looks = 0
        self.goes_on = threading.Event()
        self.goes_on.set()
        monkeypatch.setattr(ending, "is_gone", lambda _cluster: not self.is_alive)
        monkeypatch.setattr(ending, "connected", self._connected)
        monkeypatch.setattr(ending, "end_processes", lambda *_: self.done.append("killed"))
        monkeypatch.setattr(app, "end_doors", self._end_doors)
        monkeypatch.setattr(app, "cut_off_doors", self._cut_off_doors)
        monkeypatch.setattr(actor, "stop_registry", lambda: self.done.append("registry"))
        monkeypatch.setattr(ending, "_end_actors", lambda: self.done.append("jobs"))

    @contextmanager
    def _connected(self, _cluster: Cluster) -> Iterator[None]:
        self.num_looks += 1
        if self.fault:
            raise NotConnected(self.fault)
        yield

    def _end_doors(self, base_models: Iterable[str], _seconds: float) -> list[str]:
        self.goes_on.wait()
        self.done += base_models
        return self.left

    def _cut_off_doors(self, _base_models: Iterable[str]) -> None:
        self.goes_on.wait()
        if self.fault_of_doors:
            raise self.fault_of_doors
        self.done.append("doors")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Ray:
    record = Cluster(id="c1", address="x:1", root_pid=1, url="http://x", dashboard=None, base_models=("tiny",))
    (settings.home / "cluster.json").write_text(record.model_dump_json())
    return Ray(monkeypatch)


@pytest.fixture
def theirs(ray: Ray, settings: Settings) -> Ray:
    """One that we joined."""
    record = Cluster(id="c1", address="x:1", root_pid=None, url="http://x", dashboard=None, base_models=("tiny",))
    (settings.home / "cluster.json").write_text(record.model_dump_json())
    return ray


def ended(settings: Settings, is_now: bool = False) -> list[str]:
    """What it said."""
    said: list[str] = []
    assert cluster.down(settings, said.append, is_now)
    assert not cluster.down(settings, said.append, is_now)
    return said


def test_what_is_under_way_ends_first(ray: Ray, settings: Settings) -> None:
    assert ended(settings) == [WAITS]
    assert ray.done == ["tiny", "killed"]


def test_now_means_now(ray: Ray, settings: Settings) -> None:
    assert ended(settings, is_now=True) == []
    assert ray.done == ["killed"]


def test_a_cluster_that_is_dead_is_not_waited_for(ray: Ray, settings: Settings) -> None:
    ray.is_alive = False
    assert ended(settings) == []
    assert ray.done == ["killed"]


def test_what_takes_too_long_is_named(ray: Ray, settings: Settings) -> None:
    ray.left = ["gateway", "tiny"]
    assert ended(settings) == [WAITS, "cutting off what gateway, tiny still answer"]
    assert ray.done == ["tiny", "killed"]


def test_a_ray_that_cannot_be_reached_is_stopped_all_the_same(ray: Ray, settings: Settings) -> None:
    ray.fault = "Cannot connect to Ray at x:1: no answer"
    assert ended(settings) == [WAITS, "not waiting: Cannot connect to Ray at x:1: no answer"]
    assert ray.done == ["killed"]


def test_a_ray_that_hangs_is_stopped_all_the_same(
    ray: Ray, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "TELL_SECONDS", 0.05 - ending.ANSWER_SECONDS)
    ray.goes_on.clear()
    assert ended(settings) == [WAITS, "not waiting: Ray does not answer"]
    assert ray.done == ["killed"]
    ray.goes_on.set()


def test_our_parts_leave_a_ray_that_is_not_ours(theirs: Ray, settings: Settings) -> None:
    assert ended(settings) == [WAITS]
    assert set(theirs.done) == {"tiny", "doors", "registry", "jobs"}


def test_a_joined_ray_that_is_gone_is_looked_for_once(theirs: Ray, settings: Settings) -> None:
    theirs.fault = "Cannot connect to Ray at x:1: no answer"
    left = "what was started on Ray at x:1 may be left there"
    assert ended(settings) == [WAITS, "not waiting: Cannot connect to Ray at x:1: no answer", left]
    assert (theirs.num_looks, theirs.done) == (1, [])


def test_at_once_a_joined_ray_is_not_given_up(theirs: Ray, settings: Settings) -> None:
    theirs.fault, said = "Cannot connect to Ray at x:1: no answer", list[str]()
    with pytest.raises(ClusterError, match="Not all is stopped"):
        cluster.down(settings, said.append, is_now=True)
    assert said == [f"what was started on Ray at x:1 may be left there. {theirs.fault}"]
    theirs.fault = ""
    assert ended(settings, is_now=True) == []
    assert set(theirs.done) == {"doors", "registry", "jobs"}


def not_all_ended(settings: Settings) -> list[str]:
    """At once. What is left stays on record: `down` finds it again."""
    said = list[str]()
    with pytest.raises(ClusterError, match="Not all is stopped"):
        cluster.down(settings, said.append, is_now=True)
    assert record_file(settings).exists()
    return said


def test_a_part_that_cannot_be_taken_off_is_told_and_keeps_no_other(theirs: Ray, settings: Settings) -> None:
    theirs.fault_of_doors = RuntimeError("Serve is at fault")
    assert not_all_ended(settings) == ["the gateway and engines may be left on Ray at x:1: Serve is at fault"]
    assert theirs.done == ["registry", "jobs"]


def test_a_serve_that_hangs_keeps_nobody(theirs: Ray, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "LEAVE_SECONDS", 0.05)
    theirs.goes_on.clear()
    assert not_all_ended(settings) == ["the gateway and engines may be left on Ray at x:1: Ray does not answer"]
    assert theirs.done == ["registry", "jobs"]
    theirs.goes_on.set()


def test_a_ray_without_words_is_told_by_the_kind_of_its_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr("ray.init", init)
    record = Cluster(id="c1", address="x:1", root_pid=None, url="http://x", dashboard=None, base_models=())
    with pytest.raises(ClusterError, match="Cannot connect to Ray at x:1: ConnectionResetError"), connected(record):
        pass


def test_the_command_says_what_it_waits_for(ray: Ray, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(settings.home))
    assert CliRunner().invoke(down, ["--now"]).output == "Luthier is down.\n"
    assert CliRunner().invoke(down).output == "Nothing to stop: Luthier was not up.\n"
    assert ray.done == ["killed"]
