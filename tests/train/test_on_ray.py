"""Runs on a local Ray of two CPUs: the same result whatever is killed, and each end by its own name."""

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray
import torch

from luthier.errors import BadDataset, LossDiverged, LuthierError, TrainingFailed
from luthier.platform.options import Duration, Method, Unit
from luthier.platform.queue import Capacity
from luthier.platform.settings import GIB, Settings
from luthier.platform.weights.lora import LoraSettings
from luthier.train import launch
from luthier.train.config import FitConfig, FitResult, StepRecord
from luthier.train.launch import OnProgress
from luthier.train.loop import train
from luthier.train.progress import News
from luthier.train.run import Worker
from luthier.train.supervisor import RayLauncher
from tests.local_ray import local_ray

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

EPOCHS = 40
"""Enough that a run is killed before its end."""


class _Supervisor:
    """As the real one, an actor that is detached."""

    def fit(self, config: FitConfig, on_progress: OnProgress) -> FitResult | LuthierError:
        try:
            return launch.fit(config, on_progress)
        except LuthierError as error:
            return error


def fit(config: FitConfig, on_progress: OnProgress) -> FitResult:
    actor = ray.remote(_Supervisor).options(num_cpus=0, lifetime="detached", name=uuid.uuid4().hex).remote()
    try:
        result: FitResult | LuthierError = ray.get(actor.fit.remote(config, on_progress))
    finally:
        ray.kill(actor)
    if isinstance(result, LuthierError):
        raise result
    return result


def keep(folder: Path, news: News) -> None:
    """Writes each record under its step, as a registry would, and events as lines."""
    folder.mkdir(exist_ok=True)
    for step in news.steps:
        (folder / f"{step.record.step} of {news.num_steps}").write_text(step.record.model_dump_json())
    with folder.with_suffix(".events").open("a") as events:
        events.writelines(f"{event.type} {event.message}\n" for event in news.events)


def keep_and_kill_once(folder: Path, news: News) -> None:
    keep(folder, news)
    mark = folder.with_name("killed")
    if not mark.exists() and news.steps and news.steps[-1].record.step > 5:
        mark.write_text(str(news.steps[-1].record.step))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def ray_cluster() -> Iterator[None]:
    with local_ray(num_cpus=2):
        yield


def fail(news: News) -> None:
    raise RuntimeError("the listener is gone")


def test_a_killed_worker_changes_nothing(config: FitConfig, tmp_path: Path) -> None:
    config = config.model_copy(update={"duration": Duration(num=EPOCHS, unit=Unit.EPOCHS)})
    worker = Worker(0, 1, torch.device("cpu"), None, *3 * [lambda *_: None])
    expected = train(config, worker)
    last = len(expected)

    result = fit(config, partial(keep_and_kill_once, tmp_path / "steps"))

    assert 5 < int((tmp_path / "killed").read_text()) < last
    assert [r.step for r in result.history] == list(range(1, last + 1))
    assert [r.training_loss for r in result.history] == pytest.approx([r.training_loss for r in expected], abs=1e-3)
    assert result.validation_loss == pytest.approx(expected[-1].validation_loss, abs=1e-3)
    assert result.trained_tokens == sum(r.num_tokens for r in expected)
    assert result.evaluated_tokens == sum(r.evaluated_tokens for r in expected) > 0
    assert (result.checkpoint_dir / "model" / "adapter_model.safetensors").is_file()
    seen = {p.name: StepRecord.model_validate_json(p.read_text()) for p in (tmp_path / "steps").iterdir()}
    assert seen == {f"{r.step} of {last}": r for r in result.history}
    assert fit(config, partial(keep, tmp_path / "again")) == result
    events = (tmp_path / "steps.events").read_text().splitlines()
    types = [line.split()[0] for line in events]
    lost = types.index("WORKER_LOST")
    assert "worker 0: " in events[lost]
    assert "\t" not in events[lost]
    assert f"TRAIN_STARTED from step 1 of {last}" in events[:lost]
    assert "TRAIN_STARTED" in types[lost:]
    assert f"TRAIN_STARTED from step 1 of {last}" not in events[lost:]
    assert events[-1] == f"CHECKPOINT_SAVED step {last}"
    assert len({line for line in events if line.startswith("TRAIN_UPDATED")}) == EPOCHS
    log = (config.storage_path / "ft_1" / "logs" / "worker-0.log").read_text()
    assert log.count("TRAIN_STARTED") == 3


def test_two_workers_give_one_workers_losses(config: FitConfig, tmp_path: Path) -> None:
    config = config.model_copy(update={"duration": Duration(num=1, unit=Unit.EPOCHS)})
    expected = train(config, Worker(0, 1, torch.device("cpu"), None, *3 * [lambda *_: None]))
    result = fit(config.model_copy(update={"num_workers": 2}), partial(keep, tmp_path / "steps"))
    assert [r.training_loss for r in result.history] == pytest.approx([r.training_loss for r in expected], abs=1e-3)
    assert result.trained_tokens == sum(r.num_tokens for r in expected)


def test_two_shares_of_a_model_give_one_workers_losses(config: FitConfig, tmp_path: Path) -> None:
    """Of all its weights; and asked for more workers than there is room for."""
    config = config.model_copy(update={"method": Method.FULL, "learning_rate": 1e-3})
    expected = train(config, Worker(0, 1, torch.device("cpu"), None, *3 * [lambda *_: None]))
    shared = config.model_copy(update={"num_workers": (2, 3), "sharding": "full"})
    result = fit(shared, partial(keep, tmp_path / "steps"))
    assert "shared by 2 workers" in (tmp_path / "steps.events").read_text()
    assert [r.training_loss for r in result.history] == pytest.approx([r.training_loss for r in expected], abs=1e-3)
    assert (result.checkpoint_dir / "model" / "model.safetensors").is_file()
    kept = sorted(p.name for p in result.checkpoint_dir.parent.glob("*step-*"))
    assert kept == ["step-000014", "step-000015"]


def test_a_users_error_comes_out_as_itself(config: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"gone\.parquet is not there"):
        fit(config.model_copy(update={"train_file": tmp_path / "gone.parquet"}), partial(keep, tmp_path / "steps"))


def test_a_run_that_diverges_names_its_last_good_checkpoint(config: FitConfig, tmp_path: Path) -> None:
    wild = {"learning_rate": 0.1, "lora": LoraSettings(rank=1, alpha=1024), "warmup_share": 0.0}
    config = config.model_copy(update={**wild, "duration": Duration(num=EPOCHS, unit=Unit.EPOCHS)})
    with pytest.raises(LossDiverged, match=r"at step \d+ of 200. Try a smaller learning rate") as caught:
        fit(config, partial(keep, tmp_path / "steps"))
    *_, last = sorted((config.storage_path / "ft_1").glob("step-*"))
    step = int(last.name.removeprefix("step-"))
    assert f"The last good checkpoint is of step {step}: continue_from = 'ft_1'" in caught.value.message
    state = torch.load(last / "trainer.pt")
    assert all(weight.isfinite().all() for weight in state["weights"].values())


def test_any_other_error_comes_out_in_one_line(config: FitConfig) -> None:
    with pytest.raises(TrainingFailed) as caught:
        fit(config.model_copy(update={"max_failures": 0}), fail)
    assert caught.value.message == "Training run ft_1 failed: RuntimeError: the listener is gone"


def test_the_capacity_of_two_cores(settings: Settings) -> None:
    capacity = RayLauncher(settings).capacity()
    assert capacity == Capacity(jobs=1, workers=2, unit="CPU", memory=capacity.memory)
    assert capacity.memory
    assert GIB < capacity.memory <= psutil.virtual_memory().total
    more = settings.model_copy(update={"max_running_jobs": 3})
    assert RayLauncher(more).capacity() == replace(capacity, jobs=3)
