"""A run on a real MLflow store, and on one that is away."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from luthier.platform.run_files import MetricsWriter, RunFiles
from luthier.platform.settings import Settings
from luthier.train import mlflow_run
from luthier.train.mlflow_run import MlflowRun, Tracked, mark_killed, tracked
from tests.factories import make_job
from tests.platform.test_run_files import step

pytest.importorskip("mlflow")

AWAY = "http://user:secret@127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "runs" / "ft_1")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "luthier.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store takes MLflow seconds to make."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # artifacts of a database store lie in the current folder
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


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


def test_a_run_that_succeeds(uri: str, of: Tracked, files: RunFiles, model_dir: Path) -> None:
    writer = MetricsWriter(files.metrics)
    with MlflowRun(uri, of, files) as run:
        writer.add([step(number, loss=1 / number) for number in range(1, 251)])
        run.finish(model_dir, {"luthier.sha256": "ab"})
    (kept,) = runs(uri)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "LUTHIER.PUBLIC.TUNED"
    assert kept.data.params["base_model"] == "tiny"
    assert kept.data.params["learning_rate"] == "0.0005"
    assert kept.data.tags["luthier.job_id"] == "ft_1"
    assert kept.data.tags["luthier.sha256"] == "ab"
    assert history(uri, "loss/train/total") == [(n, 1 / n, 1_000 + n) for n in range(1, 251)]
    assert (Path(kept.info.artifact_uri) / "model" / "luthier.json").is_file()


def test_a_run_that_is_lost_goes_on_as_the_same(uri: str, of: Tracked, files: RunFiles, model_dir: Path) -> None:
    writer = MetricsWriter(files.metrics)
    writer.add([step(1), step(2)])
    with pytest.raises(OSError, match="lost"), MlflowRun(uri, of, files):
        raise OSError("lost")
    assert [run.info.status for run in runs(uri)] == ["FAILED"]
    writer.add([step(3)])
    with MlflowRun(uri, of, files) as run:
        run.finish(model_dir, {})
    assert [run.info.status for run in runs(uri)] == ["FINISHED"]
    assert [at for at, *_ in history(uri, "loss/train/total")] == [1, 2, 3]


def test_a_server_that_is_away_holds_nothing_up(of: Tracked, files: RunFiles, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic()
    with MlflowRun(AWAY, of, files) as run:
        MetricsWriter(files.metrics).add([step(1)])
        run.finish(files.metrics.parent, {})
    assert time.monotonic() - began < mlflow_run.LAST_SECONDS
    assert "MLflow: " in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_comes_back_gets_all(
    uri: str, of: Tracked, files: RunFiles, model_dir: Path, monkeypatch: pytest.MonkeyPatch
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
        run.finish(model_dir, {})
    assert [at for at, *_ in history(uri, "loss/train/total")] == [1, 2]


def test_no_uri_no_run(of: Tracked, files: RunFiles) -> None:
    with MlflowRun("", of, files) as run:
        run.finish(files.metrics.parent, {})
    assert not run._thread.is_alive()


def test_a_cancelled_run_is_killed(uri: str, of: Tracked, files: RunFiles) -> None:
    mark_killed(uri, of.experiment, of.job_id)  # before it ever told of itself
    with MlflowRun(uri, of, files):
        pass
    mark_killed(uri, of.experiment, of.job_id)
    assert [run.info.status for run in runs(uri)] == ["KILLED"]
    mark_killed(uri, of.experiment, "ft_other")
    assert [run.info.status for run in runs(uri)] == ["KILLED"]
