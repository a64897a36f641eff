"""A run on a real MLflow store, and on one that is away."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.platform.base_models import load_catalog
from luthier.platform.run_files import MetricsWriter, RunFiles
from luthier.platform.settings import Settings
from luthier.train import mlflow_run
from luthier.train.mlflow_model import Tuned
from luthier.train.mlflow_run import MlflowRun, Tracked, mark_killed, tracked
from tests.factories import make_finished, make_job
from tests.platform.test_run_files import step

pytest.importorskip("mlflow")

AWAY = "http://user:secret@127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "runs" / "ft_1")


@pytest.fixture
def tuned(tmp_path: Path, settings: Settings) -> Tuned:
    """Of no weights."""
    for folder in ("adapter", "base"):
        (tmp_path / folder).mkdir()
    (tmp_path / "adapter" / "luthier.json").write_text("{}")
    (tmp_path / "base" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    base = load_catalog(settings).get("tiny")
    return Tuned(made=make_finished(tmp_path / "adapter"), base=base, base_dir=tmp_path / "base")


@pytest.fixture
def of(settings: Settings) -> Tracked:
    return tracked(make_job(), settings)


def runs(uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    return list(client.search_runs([client.get_experiment_by_name("luthier").experiment_id]))


def history(uri: str, name: str) -> list[tuple[int, float, int]]:
    from mlflow import MlflowClient

    (run,) = runs(uri)
    found = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name)
    return sorted((metric.step, metric.value, metric.timestamp) for metric in found)


def test_a_run_that_succeeds(uri: str, of: Tracked, files: RunFiles, tuned: Tuned) -> None:
    writer = MetricsWriter(files.metrics)
    with MlflowRun(uri, of, files) as run:
        writer.add([step(number, loss=1 / number) for number in range(1, 251)])
        run.finish(tuned)
    (kept,) = runs(uri)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "LUTHIER.PUBLIC.TUNED"
    assert kept.data.params["base_model"] == "tiny"
    assert kept.data.params["learning_rate"] == "0.0005"
    assert kept.data.tags["luthier.job_id"] == "ft_1"
    assert kept.data.tags["luthier.sha256"] == tuned.made.sha256
    assert history(uri, "loss/train/total") == [(n, 1 / n, 1_000 + n) for n in range(1, 251)]
    assert (Path(kept.info.artifact_uri) / "luthier.json").is_file()
    assert len(kept.outputs.model_outputs) == 1


def test_a_run_that_is_lost_goes_on_as_the_same(uri: str, of: Tracked, files: RunFiles, tuned: Tuned) -> None:
    writer = MetricsWriter(files.metrics)
    writer.add([step(1), step(2)])
    with pytest.raises(OSError, match="lost"), MlflowRun(uri, of, files):
        raise OSError("lost")
    assert [run.info.status for run in runs(uri)] == ["FAILED"]
    writer.add([step(3)])
    with MlflowRun(uri, of, files) as run:
        run.finish(tuned)
    assert [run.info.status for run in runs(uri)] == ["FINISHED"]
    assert [at for at, *_ in history(uri, "loss/train/total")] == [1, 2, 3]


def test_a_model_that_cannot_be_logged_is_no_failure_but_is_told(
    uri: str, of: Tracked, files: RunFiles, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run, "UPLOAD_SECONDS", mlflow_run.SECONDS)
    with MlflowRun(uri, of, files) as run:
        run.finish(tuned.model_copy(update={"base_dir": Path("gone")}))
    (kept,) = runs(uri)
    assert kept.info.status == "FINISHED"
    assert kept.data.tags["luthier.upload"].startswith("failed: [Errno 2] No such file")


@pytest.mark.parametrize("error", [ConnectionError("away"), RuntimeError("of a store's own")], ids=repr)
@pytest.mark.parametrize("at", ["log_model_artifacts", "create_model_version", "set_terminated"])
def test_the_model_is_sent_until_the_server_has_it(
    uri: str, of: Tracked, files: RunFiles, tuned: Tuned, monkeypatch: pytest.MonkeyPatch, at: str, error: Exception
) -> None:
    """It is one model, and has time to be stored."""
    from mlflow import MlflowClient

    real, answers, timeouts = getattr(MlflowClient, at), iter([error, error]), list[str]()

    def fail_twice(client: Any, *args: Any, **kwargs: Any) -> Any:
        timeouts.append(os.environ[mlflow_run.TIMEOUT])
        if found := next(answers, None):
            raise found
        return real(client, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, at, fail_twice)
    monkeypatch.setattr(mlflow_run, "SECONDS", 0.01)
    with MlflowRun(uri, of.model_copy(update={"registered_as": "luthier.TUNED"}), files) as run:
        run.finish(tuned)
    (kept,) = runs(uri)
    assert kept.info.status == "FINISHED"
    assert kept.data.tags["luthier.upload"] == "complete"
    client = MlflowClient(tracking_uri=uri)
    models = client.search_logged_models([kept.info.experiment_id])
    assert [model.status for model in models] == ["READY"]
    assert len(client.search_model_versions("")) == 1
    assert set(timeouts) == {"10" if at == "set_terminated" else "300"}
    assert os.environ[mlflow_run.TIMEOUT] == "10"


def test_a_server_that_is_away_holds_nothing_up(
    of: Tracked, files: RunFiles, tuned: Tuned, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run, "UPLOAD_SECONDS", 1.0)
    began = time.monotonic()
    with MlflowRun(AWAY, of, files) as run:
        MetricsWriter(files.metrics).add([step(1)])
        run.finish(tuned)
    assert time.monotonic() - began < mlflow_run.LAST_SECONDS
    assert "MLflow: " in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_comes_back_gets_all(
    uri: str, of: Tracked, files: RunFiles, tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([ConnectionError("away"), ConnectionError("away")])
    is_back = threading.Event()
    real = mlflow_run._Server.__init__

    def connect(self: Any, uri: str, of: Tracked) -> None:
        if error := next(answers, None):
            raise error
        real(self, uri, of)
        is_back.set()

    monkeypatch.setattr(mlflow_run._Server, "__init__", connect)
    monkeypatch.setattr(mlflow_run, "SECONDS", 0.01)
    MetricsWriter(files.metrics).add([step(1), step(2)])
    with MlflowRun(uri, of, files) as run:
        assert is_back.wait(60)
        run.finish(tuned)
    assert [at for at, *_ in history(uri, "loss/train/total")] == [1, 2]


def test_no_uri_no_run(of: Tracked, files: RunFiles, tuned: Tuned) -> None:
    with MlflowRun("", of, files) as run:
        run.finish(tuned)
    assert not run._thread.is_alive()


def test_a_cancelled_run_is_killed(uri: str, of: Tracked, files: RunFiles) -> None:
    mark_killed(uri, of.experiment, of.job_id)  # before it ever told of itself
    with MlflowRun(uri, of, files):
        pass
    mark_killed(uri, of.experiment, of.job_id)
    assert [run.info.status for run in runs(uri)] == ["KILLED"]
    mark_killed(uri, of.experiment, "ft_other")
    assert [run.info.status for run in runs(uri)] == ["KILLED"]


@pytest.mark.parametrize(
    ("registry", "model", "name"),
    [
        ("", "LUTHIER.PUBLIC.TUNED", ""),
        ("luthier", "LUTHIER.PUBLIC.TUNED", "luthier.main-LUTHIER-PUBLIC-TUNED"),
        ("main.models", 'LUTHIER.PUBLIC."a/b: c.d"', "main.models.main-LUTHIER-PUBLIC-a_b__c_d-3337185b"),
    ],
)
def test_the_registered_name(settings: Settings, registry: str, model: str, name: str) -> None:
    settings = settings.model_copy(update={"mlflow_registry": registry})
    assert tracked(make_job(model=model), settings).registered_as == name


def test_no_two_models_have_one_registered_name(settings: Settings) -> None:
    settings = settings.model_copy(update={"mlflow_registry": "main.models"})
    long = "M" * 255
    names = [
        "A.P.M",
        "B.P.M",
        "A.Q.M",
        'A.P."a-b"',
        'A.P."a b"',
        "A.P.a_b",
        'A."P-a".B',
        f"A.P.{long}",
        f"A.{long}.{long}",
    ]
    found = [tracked(make_job(model=name, account=account), settings) for name in names for account in ("main", "m-n")]
    assert len({each.registered_as for each in found}) == len(found)
    assert max(len(each.registered_as) for each in found) <= 256
