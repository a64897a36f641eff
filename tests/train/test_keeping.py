"""Checkpoints that cannot be written: another try, an event, and an end with the reason only where it must be."""

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luthier.errors import TrainingFailed
from luthier.platform.options import Method
from luthier.train.config import FitConfig
from luthier.train.loop import train
from tests.train.local import Local, assert_same


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those that a run would have made."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


class Failing(Local):
    """Storage that fails for some steps, so many times each."""

    def __init__(self, folder: Path, steps: tuple[int, ...], times: int) -> None:
        super().__init__(folder)
        self.left = dict.fromkeys(steps, times)
        self.worker = replace(self.worker, keep_checkpoint=self.keep)

    def keep(self, folder: Path, step: int) -> None:
        if self.left.get(step):
            self.left[step] -= 1
            raise OSError(28, "No space left on device")
        super().keep(folder, step)


def test_another_try_is_made_after_a_pause(config: FitConfig, tmp_path: Path, pauses: list[float]) -> None:
    expected = train(config, Local(tmp_path / "sound").worker)
    run = Failing(tmp_path / "kept", (4, 15), times=2)
    assert_same(train(config, run.worker), expected, 1e-6)
    assert {int(p.name) for p in run.folder.iterdir()} == {2, 4, 5, 6, 8, 10, 12, 14, 15}
    assert [pause for pause in pauses if pause] == [2.0, 8.0] * 2
    assert "CHECKPOINT_FAILED" not in run.kinds()


def test_a_run_outlives_a_lost_checkpoint(config: FitConfig, tmp_path: Path, pauses: list[float]) -> None:
    expected = train(config, Local(tmp_path / "sound").worker)
    run = Failing(tmp_path / "kept", (4,), times=3)
    assert_same(train(config, run.worker), expected, 1e-6)
    assert {int(p.name) for p in run.folder.iterdir()} == {2, 5, 6, 8, 10, 12, 14, 15}
    said = "The checkpoint of step 4 could not be kept: [Errno 28] No space left on device"
    assert [event for event in run.events if event[0] == "CHECKPOINT_FAILED"] == [("CHECKPOINT_FAILED", said)]
    resumed = Local(tmp_path / "resumed", run.folder / "5")
    assert_same(train(config, resumed.worker), expected, 1e-6)


def test_without_its_last_checkpoint_a_run_has_failed(config: FitConfig, tmp_path: Path, pauses: list[float]) -> None:
    run = Failing(tmp_path / "kept", (15,), times=3)
    with pytest.raises(TrainingFailed, match=r"last checkpoint, of step 15, could not be kept.*No space left"):
        train(config, run.worker)
    assert run.kinds()[-1] == "CHECKPOINT_FAILED"


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Files that grow no further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize("size", [1000, 60_000])
def test_a_full_disk_leaves_nothing_half_written(
    config: FitConfig,
    tmp_path: Path,
    pauses: list[float],
    small_disk: Callable[[int], None],
    method: Method,
    size: int,
) -> None:
    """The smaller disk is full in the model's file, the larger in the trainer's."""
    config = config.model_copy(update={"method": method, "learning_rate": 1e-3})
    run = Local(tmp_path / "kept")
    full_from = 6

    def keep(folder: Path, step: int) -> None:
        run.keep(folder, step)
        if step == full_from - 1:
            small_disk(size)

    with pytest.raises(TrainingFailed, match=r"last checkpoint, of step 15, could not be kept: .*(large|write)"):
        train(config, replace(run.worker, keep_checkpoint=keep))
    small_disk(resource.RLIM_INFINITY)
    assert sorted(int(p.name) for p in run.folder.iterdir()) == [2, 4, 5]
    assert list((config.storage_path / config.job_id).iterdir()) == []
    assert run.kinds().count("CHECKPOINT_FAILED") == 6


def test_a_lost_folder_is_said(config: FitConfig, tmp_path: Path, pauses: list[float]) -> None:
    run = Local(tmp_path / "kept")

    def keep(folder: Path, step: int) -> None:
        run.keep(folder, step)
        shutil.rmtree(config.storage_path, ignore_errors=True)

    with pytest.raises(TrainingFailed, match=r"step 15, could not be kept: .*No such file or directory"):
        train(config, replace(run.worker, keep_checkpoint=keep))


def test_what_a_killed_worker_left_is_written_anew(config: FitConfig, tmp_path: Path) -> None:
    left = config.storage_path / config.job_id / ".step-2"
    left.mkdir(parents=True)
    (left / "trainer.pt").write_bytes(b"half")
    run = Local(tmp_path / "kept")
    train(config, run.worker)
    assert not left.exists()
    assert len(torch.load(run.folder / "2" / "trainer.pt")["history"]) == 2
    assert os.listdir(run.folder / "2") != []
