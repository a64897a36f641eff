"""`luthier status`: what runs, what is missing, and what to do, whatever is broken."""

import json
import os
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from luthier.cli import cluster_status
from luthier.cli.cluster_commands import status
from luthier.cli.cluster_record import Cluster, lock_file, write_record
from luthier.cli.profile import Profile, save_profile
from luthier.errors import Unavailable
from luthier.platform.settings import Settings, load_settings

ENGINE = {"replica": "r1", "base_model": "tiny", "in_engine": ["A@1"], "in_memory": [], "on_disk": [], "hits": 3}


class Api:
    """What answers at the record's address."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: httpx.Response | httpx.HTTPError = httpx.ConnectError("refused")
        self.engines: list[dict[str, Any]] | Unavailable = [ENGINE]
        self.cluster: dict[str, Any] = {}
        monkeypatch.setattr(httpx, "get", self._get)
        monkeypatch.setattr(cluster_status, "Client", lambda *_: self)

    def ready(self, **engines: bool) -> None:
        told = {"ready": all(engines.values()), "base_models": engines, "full_models": {}}
        self.answer = httpx.Response(200 if all(engines.values()) else 503, json=told)

    def call(self, _method: str, _path: str) -> dict[str, Any]:
        if isinstance(self.engines, Unavailable):
            raise self.engines
        return {"engines": [dict(each) for each in self.engines], **self.cluster}

    def _get(self, url: str, timeout: float) -> httpx.Response:
        assert (url, timeout) == ("http://x/readyz", 10)
        if isinstance(self.answer, httpx.HTTPError):
            raise self.answer
        return self.answer


@pytest.fixture
def api(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setenv("LUTHIER_HOME", str(settings.home))
    load_settings.cache_clear()
    started(settings)
    save_profile(settings, Profile(url="http://x", api_key="k"))
    return Api(monkeypatch)


def started(settings: Settings, root_pid: int | None = None) -> None:
    made = Cluster(id="c1", address="x:1", root_pid=root_pid, url="http://x", dashboard=None, base_models=("tiny",))
    write_record(settings, made)


def told(*options: str) -> Result:
    done = CliRunner().invoke(status, options)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def first_line(exit_code: int) -> str:
    """What people read first; programs are told the same."""
    for_people, for_programs = told(), told("--json")
    assert for_people.exit_code == for_programs.exit_code == exit_code
    line = for_people.output.splitlines()[0]
    assert json.loads(for_programs.output).get("reason", "") in line
    return line


def test_all_is_well(api: Api) -> None:
    api.ready(tiny=True)
    lines = told().output.splitlines()
    assert lines[:3] == ["Luthier is up.", "  API            http://x/v1", "  API docs       http://x/docs"]
    assert "  Engine         tiny (ready)" in lines
    assert [line.split() for line in lines if "A@1" in line] == [["r1", "tiny", "A@1", "3"]]
    found = json.loads(told("--json").output)
    assert (found["up"], found["ready"], found["engines"]) == (True, True, {"tiny": True})
    assert found["base_models"] == ["tiny"]
    assert found["replicas"]["r1"]["in_engine"] == ["A@1"]


def test_nothing_was_started(api: Api, settings: Settings) -> None:
    (settings.home / "cluster.json").unlink()
    assert first_line(1) == f"Luthier is not up: nothing was started in {settings.home}: run `luthier up`"


def test_up_is_at_work(api: Api, settings: Settings) -> None:
    with FileLock(lock_file(settings)):
        assert first_line(1) == "Luthier is not up: `luthier up` or `down` is at work"


@pytest.mark.parametrize("root_pid", [0, 2**22 + 1])
def test_it_ended_by_itself(api: Api, settings: Settings, root_pid: int) -> None:
    started(settings, root_pid)
    assert first_line(1).endswith("Ray has ended by itself, or `luthier up` did: run `luthier up`, or `luthier down`")


def test_haproxy_has_no_gateway(api: Api) -> None:
    api.answer = httpx.Response(503, json={"error": {"message": "not ready"}})
    assert first_line(1).startswith(
        "Luthier is not up: the API has no gateway (503): run `luthier up`; the logs are in "
    )


@pytest.mark.parametrize("body", ["", "[]", '"x"', "<html><h1>503 Service Unavailable</h1></html>"])
def test_another_program_answers(api: Api, body: str) -> None:
    api.answer = httpx.Response(503, text=body)
    assert first_line(1).startswith("Luthier is not up: the API has no gateway (503): ")


def test_nothing_answers_on_a_home_that_cannot_be_written(api: Api, settings: Settings) -> None:
    lock_file(settings).mkdir()
    assert first_line(1).startswith("Luthier is not up: the API does not answer: ")


def test_the_logs_of_a_ray_that_we_joined_are_its_own(api: Api, settings: Settings) -> None:
    assert first_line(1).endswith(
        "session_latest/logs/serve of the Ray at x:1, on its nodes (in /tmp/ray unless set otherwise)"
    )
    started(settings, os.getpid())
    assert "the Ray at" not in first_line(1)


def test_an_engine_is_broken(api: Api) -> None:
    api.ready(tiny=False, other=True)
    api.engines = []
    assert first_line(0).startswith(
        "Luthier is up, but not ready: no answer from the engine of tiny, which starts or is "
    )
    assert "  Engine         tiny (not ready)" in told().output.splitlines()


def test_a_node_is_lost(api: Api) -> None:
    """It is what is wrong as long as an engine lacks it."""
    nodes = [
        {"name": name, "address": "10.0.0.1", "is_lost": name != "head"} for name in ("head", "second", "10.0.0.1")
    ]
    api.cluster = {"nodes": nodes, "waiting": {"tiny": "An engine of base model tiny takes more."}}
    api.ready(tiny=False)
    assert first_line(0) == (
        "Luthier is up, but not ready: node second (10.0.0.1) is lost; node 10.0.0.1 is lost; "
        "An engine of base model tiny takes more."
    )
    api.ready(tiny=True)
    api.cluster["waiting"] = {}
    assert first_line(0) == "Luthier is up."
    assert "  Node           second (lost)" in told().output.splitlines()


def test_the_registry_is_away(api: Api) -> None:
    api.ready(tiny=True)
    api.engines = Unavailable("The registry does not answer (names). Try again.")
    assert first_line(0) == "Luthier is up: The registry does not answer (names). Try again."
    assert json.loads(told("--json").output)["replicas"] == {}
