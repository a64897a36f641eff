import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from luthier.errors import BadDataset, TrainingFailed
from luthier.train.config import FitConfig, StepRecord
from luthier.train.launch import _Flusher, _root_cause, fit
from luthier.train.loop import Worker, train


def keep(folder: Path, records: list[StepRecord], num_steps: int) -> None:
    """Writes each record under its step, as a registry would."""
    folder.mkdir(exist_ok=True)
    for record in records:
        (folder / f"{record.step} of {num_steps}").write_text(record.model_dump_json())


def keep_and_kill_once(folder: Path, records: list[StepRecord], num_steps: int) -> None:
    keep(folder, records, num_steps)
    mark = folder.with_name("killed")
    if not mark.exists() and records[-1].step > 5:
        mark.write_text(str(records[-1].step))
        os.kill(os.getpid(), signal.SIGKILL)


def fail(records: list[StepRecord], num_steps: int) -> None:
    raise RuntimeError("the listener is gone")


@pytest.mark.ray
def test_a_killed_worker_changes_nothing(ray_cluster: None, config: FitConfig, tmp_path: Path) -> None:
    worker = Worker(0, 1, torch.device("cpu"), None, lambda *_: None, lambda *_: None)
    expected = train(config, worker)

    result = fit(config, partial(keep_and_kill_once, tmp_path / "steps"))

    assert 5 < int((tmp_path / "killed").read_text()) < 15
    assert [r.step for r in result.history] == list(range(1, 16))
    assert [r.training_loss for r in result.history] == pytest.approx([r.training_loss for r in expected], abs=1e-3)
    assert result.validation_loss == pytest.approx(expected[-1].validation_loss, abs=1e-3)
    assert result.trained_tokens == sum(r.num_tokens for r in expected)
    assert (result.checkpoint_dir / "adapter" / "adapter_model.safetensors").is_file()
    seen = {p.name: StepRecord.model_validate_json(p.read_text()) for p in (tmp_path / "steps").iterdir()}
    assert seen == {f"{r.step} of 15": r for r in result.history}
    assert fit(config, partial(keep, tmp_path / "again")) == result


@pytest.mark.ray
def test_two_workers_give_one_workers_losses(ray_cluster: None, config: FitConfig, tmp_path: Path) -> None:
    config = config.model_copy(update={"max_epochs": 1})
    expected = train(config, Worker(0, 1, torch.device("cpu"), None, lambda *_: None, lambda *_: None))
    result = fit(config.model_copy(update={"num_workers": 2}), partial(keep, tmp_path / "steps"))
    assert [r.training_loss for r in result.history] == pytest.approx([r.training_loss for r in expected], abs=1e-3)
    assert result.trained_tokens == sum(r.num_tokens for r in expected)


@pytest.mark.ray
def test_a_users_error_comes_out_as_itself(ray_cluster: None, config: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"gone\.parquet is not there"):
        fit(config.model_copy(update={"train_file": tmp_path / "gone.parquet"}), partial(keep, tmp_path / "steps"))


@pytest.mark.ray
def test_any_other_error_comes_out_in_one_line(ray_cluster: None, config: FitConfig) -> None:
    with pytest.raises(TrainingFailed) as caught:
        fit(config.model_copy(update={"max_failures": 0}), fail)
    assert caught.value.message == "Training run ft_1 failed: RuntimeError: the listener is gone"


def test_the_innermost_error_is_the_cause() -> None:
    outer, inner = ValueError("outer"), OSError("disk\nfull")
    outer.__cause__ = inner
    assert _root_cause(outer) == "OSError: disk full"


def record(step: int) -> StepRecord:
    return StepRecord(step=step, epoch=1, training_loss=1.0, num_tokens=1)


def test_the_flusher_hands_on_every_record_in_order() -> None:
    calls: list[list[int]] = []
    with _Flusher(lambda records, _: calls.append([r.step for r in records])) as flusher:
        for step in range(1, 101):
            flusher.add(record(step), 100)
    assert [step for call in calls for step in call] == list(range(1, 101))
    assert len(calls) <= 2


def test_the_flusher_does_not_hide_a_failing_listener() -> None:
    with pytest.raises(RuntimeError, match="listener"), _Flusher(fail) as flusher:
        flusher.add(record(1), 1)
