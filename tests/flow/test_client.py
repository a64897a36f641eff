"""The Python client against the app behind a real socket."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import luthier
from luthier.cli import client as client_module
from luthier.cli.profile import Profile, load_profile, profile_file, save_profile
from luthier.errors import (
    BadDataset,
    Conflict,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    TrainingFailed,
    Unavailable,
)
from luthier.platform.jobs import JobError
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import KEY
from tests.fakes import EchoEngine
from tests.flow.conftest import SELECT

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> luthier.Client:
    monkeypatch.setattr(client_module, "POLL_SECONDS", 0.0)
    return luthier.Client(server, KEY)


@pytest.fixture
def data(tmp_path: Path) -> str:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion\n" + "".join(f"q {n},a {n}\n" for n in range(4)))
    return str(file)


def test_a_job_from_a_query(client: luthier.Client, faq: str, train: Callable[[str], Path]) -> None:
    job = client.finetune.create("tuned", "tiny", SELECT, options={"max_epochs": 1})
    watched = job.watch()
    assert next(watched)["status"] == "PENDING"
    train(job.id)
    assert [described["status"] for described in watched][-1] == "SUCCESS"
    assert job.wait()["model"] == "LUTHIER.PUBLIC.tuned"
    assert [event["type"] for event in job.events()] == ["CREATED", "CHECK_PASSED", "STARTED", "COMPLETED"]
    assert [shown["id"] for shown in client.finetune.show()] == [job.id]
    assert client.finetune.job(job.id).describe()["trained_tokens"] == 60


def test_a_job_from_a_file_and_again(client: luthier.Client, data: str) -> None:
    report = client.finetune.dry_run("a", "tiny", data)
    first = client.finetune.create("a", "tiny", data, validation_data=data)
    second = client.finetune.create("b", "tiny", data)
    assert (report["rows"], report["validation_rows"]) == (3, 1)
    assert first.describe()["report"]["validation_rows"] == 4
    assert second.describe()["training_data"].startswith("SELECT * FROM FILE_")
    assert len(client.tables.list()) == 1


def test_a_job_that_does_not_succeed(client: luthier.Client, faq: str, registry: Registry) -> None:
    job = client.finetune.create("a", "tiny", SELECT)
    assert job.cancel()["status"] == "CANCELLED"
    with pytest.raises(TrainingFailed, match="ended as CANCELLED: it was cancelled"):
        job.wait()
    failed = client.finetune.create("a", "tiny", SELECT)
    registry.jobs.fail(failed.id, JobError(code="BAD", message="The loss is nan."), billable=True)
    with pytest.raises(TrainingFailed, match="ended as ERROR: The loss is nan"):
        failed.wait()


def test_watching_outlives_a_restart(
    client: luthier.Client, faq: str, train: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.finetune.create("a", "tiny", SELECT)
    answers = iter([Unavailable("restarting"), None])

    def describe(self: client_module.FinetuneJob) -> dict[str, object]:
        if error := next(answers, None):
            raise error
        return real(self)

    real = client_module.FinetuneJob.describe
    monkeypatch.setattr(client_module.FinetuneJob, "describe", describe)
    train(job.id)
    assert [described["status"] for described in job.watch()] == ["SUCCESS"]


def test_complete(client: luthier.Client, engine: EchoEngine) -> None:
    assert client.complete("tiny", "how are you") == "base: how are you"
    assert engine.requests[-1].temperature == 0.0
    history = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    answer = client.complete("tiny", history, {"max_tokens": 1}, system="be kind")
    assert answer["choices"] == [{"messages": "base:"}]
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    assert (engine.requests[-1].messages or [])[0] == {"role": "system", "content": "be kind"}
    assert list(client.stream("tiny", "a b")) == ["", "base:", " a", " b"]


def test_a_stream_that_breaks(client: luthier.Client, engine: EchoEngine) -> None:
    engine.dies_after = 1
    pieces = client.stream("tiny", "a b")
    assert [next(pieces), next(pieces)] == ["", "base:"]
    with pytest.raises(Unavailable, match="stopped"):
        next(pieces)
    with pytest.raises(NotFound, match="Unknown model"):
        list(client.stream("nobody", "a"))


def test_sql(client: luthier.Client, faq: str) -> None:
    table = client.sql("SELECT count(*) AS n, min(question) AS first FROM faq")
    assert table.to_pylist() == [{"n": 10, "first": "question 0"}]


def test_tables(client: luthier.Client, data: str) -> None:
    table = client.tables.create("t", data)
    assert (table["name"], table["num_rows"]) == ("LUTHIER.PUBLIC.t", 4)
    with pytest.raises(Conflict, match="--replace"):
        client.tables.create("t", data)
    assert client.tables.create("t", data, replace=True)["num_rows"] == 4
    assert client.tables.list()[0]["name"] == "LUTHIER.PUBLIC.t"
    assert client.tables.drop("t")["name"] == "LUTHIER.PUBLIC.t"
    assert client.tables.list() == []


def test_models(client: luthier.Client, tuned: str, tmp_path: Path) -> None:
    assert [model["model"] for model in client.models.list()] == ["LUTHIER.PUBLIC.tuned"]
    assert client.models.get(tuned)["version"] == 1
    files = client.models.export(tuned, tmp_path / "out" / "deep")
    assert [file.name for file in files] == ["adapter_model.safetensors", "training_results.csv", "README.md"]
    assert files[0].read_bytes() == b"weights"
    assert client.models.drop(tuned)["model"] == "LUTHIER.PUBLIC.tuned"
    with pytest.raises(NotFound):
        client.models.export(tuned, tmp_path / "none")
    assert {base["name"] for base in client.base_models()} >= {"tiny"}


def test_usage(client: luthier.Client) -> None:
    client.complete("tiny", "a b")
    (row,) = client.usage("credits", group_by=["model"])
    assert (row["model"], row["prompt_tokens"]) == ("tiny", 2)
    assert client.usage("completions", until=1) == []
    assert len(client.usage("completions", since=1)) == 1


def test_errors_come_back_as_what_they_were(client: luthier.Client, faq: str, server: str, tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="no column prompt"):
        client.finetune.create("a", "tiny", "SELECT * FROM faq")
    with pytest.raises(InvalidInput, match="max_epochs = 11"):
        client.finetune.create("a", "tiny", SELECT, options={"max_epochs": 11})
    with pytest.raises(NotFound, match="ft_x"):
        client.finetune.job("ft_x").describe()
    with pytest.raises(NotFound, match="No model"):
        client.download("/luthier/v1/models/none/artifacts/x", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(NotAuthenticated, match="not known here"):
        luthier.Client(server, "lt_wrong").finetune.show()


@pytest.mark.parametrize("name", ["gone.csv", "gone.PARQUET"])
def test_a_file_that_is_not_there(client: luthier.Client, name: str) -> None:
    with pytest.raises(InvalidInput, match=f"No file {name}"):
        client.finetune.create("a", "tiny", name)
    with pytest.raises(InvalidInput, match=f"No file {name}"):
        client.tables.create("t", name)


def test_a_server_that_is_away(own_home: None, tmp_path: Path) -> None:
    client = luthier.Client(NOBODY, KEY)
    for ask in (
        client.finetune.show,
        lambda: list(client.stream("tiny", "a")),
        lambda: client.download("/x", tmp_path / "x"),
    ):
        with pytest.raises(Unavailable, match="Is it up"):
            ask()
    assert list(tmp_path.glob("x")) == []


def test_an_answer_that_is_not_ours(client: luthier.Client) -> None:
    response = httpx.Response(502, text="<html>Bad gateway", request=httpx.Request("GET", NOBODY))
    error = client_module._to_error(response)
    assert isinstance(error, Unavailable)
    assert "HTTP 502" in error.message
    assert "Bad gateway" in error.message


def test_where_the_server_and_key_come_from(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAuthenticated, match="LUTHIER_URL"):
        luthier.Client()
    save_profile(settings, Profile(url="http://profile/", api_key="lt_profile"))
    assert profile_file(settings).stat().st_mode & 0o777 == 0o600
    assert load_profile(settings) == Profile(url="http://profile/", api_key="lt_profile")
    assert luthier.Client().url == "http://profile"
    monkeypatch.setenv("LUTHIER_URL", "http://variable")
    assert luthier.Client().url == "http://variable"
    assert luthier.Client("http://argument").url == "http://argument"
    save_profile(settings, Profile(url="http://other", api_key="lt_other"))
    monkeypatch.delenv("LUTHIER_URL")
    assert luthier.Client().url == "http://other"


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        luthier.Nothing  # noqa: B018
