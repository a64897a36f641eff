import shutil
from pathlib import Path

import pytest
import torch

from luthier.errors import BadDataset, TrainingFailed
from luthier.train.config import FitConfig, StepRecord
from luthier.train.loop import Worker, rate_share, train


class Local:
    """A run of one process that keeps every checkpoint."""

    def __init__(self, folder: Path, resume_from: Path | None = None) -> None:
        self.folder = folder
        self.reported: list[tuple[int, int]] = []
        self.worker = Worker(0, 1, torch.device("cpu"), resume_from, self.keep, self.report)

    def keep(self, folder: Path | None, step: int) -> None:
        assert folder is not None
        shutil.copytree(folder, self.folder / str(step))

    def report(self, record: StepRecord, num_steps: int) -> None:
        self.reported.append((record.step, num_steps))


def assert_same(history: list[StepRecord], expected: list[StepRecord], within: float) -> None:
    plain = {"training_loss", "validation_loss"}
    assert [r.model_dump(exclude=plain) for r in history] == [r.model_dump(exclude=plain) for r in expected]
    for ours, theirs in zip(history, expected, strict=True):
        assert ours.training_loss == pytest.approx(theirs.training_loss, abs=within)
        assert (ours.validation_loss is None) == (theirs.validation_loss is None)
        assert ours.validation_loss is None or ours.validation_loss == pytest.approx(theirs.validation_loss, abs=within)


def test_a_run_learns_evaluates_and_keeps_checkpoints(config: FitConfig, tmp_path: Path) -> None:
    run = Local(tmp_path / "kept")
    history = train(config, run.worker)

    assert [(r.step, r.epoch) for r in history] == [(s, (s - 1) // 5 + 1) for s in range(1, 16)]
    held_out = {r.step: r.validation_loss for r in history if r.validation_loss is not None}
    assert list(held_out) == [5, 10, 15]
    assert held_out[15] < held_out[5] < history[0].training_loss
    assert len({sum(r.num_tokens for r in history if r.epoch == epoch) for epoch in (1, 2, 3)}) == 1
    assert run.reported == [(step, 15) for step in range(1, 16)]
    assert sorted(int(p.name) for p in run.folder.iterdir()) == [2, 4, 5, 6, 8, 10, 12, 14, 15]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_is_the_uninterrupted_run(config: FitConfig, tmp_path: Path, dropout: float) -> None:
    config = config.model_copy(update={"lora": config.lora.model_copy(update={"dropout": dropout})})
    whole = Local(tmp_path / "whole")
    expected = train(config, whole.worker)
    for step in (4, 10):  # within an epoch, and between two
        resumed = Local(tmp_path / f"from-{step}", whole.folder / str(step))
        assert_same(train(config, resumed.worker), expected, 1e-6)
        assert min(int(p.name) for p in resumed.folder.iterdir()) > step


def test_a_finished_run_only_tells_its_history(config: FitConfig, tmp_path: Path) -> None:
    whole = Local(tmp_path / "whole")
    expected = train(config, whole.worker)
    again = Local(tmp_path / "again", whole.folder / "15")
    assert train(config, again.worker) == expected
    assert again.reported == whole.reported
    assert not again.folder.exists()


def test_passes_do_not_change_a_step(config: FitConfig, tmp_path: Path) -> None:
    expected = train(config, Local(tmp_path / "one").worker)
    parts = config.model_copy(update={"max_pass_tokens": 40})
    assert_same(train(parts, Local(tmp_path / "many").worker), expected, 1e-3)


def test_two_workers_are_one(config: FitConfig, tmp_path: Path) -> None:
    expected = train(config, Local(tmp_path / "one").worker)
    torch.multiprocessing.spawn(_one_of_two, (config, tmp_path), nprocs=2)
    histories = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert histories[0] == histories[1]
    assert_same(histories[0], expected, 1e-3)


def _one_of_two(rank: int, config: FitConfig, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    kept: list[Path | None] = []
    worker = Worker(rank, 2, torch.device("cpu"), None, lambda f, _: kept.append(f), lambda *_: None)
    torch.save(train(config, worker), folder / f"{rank}.pt")
    assert all((path is None) == (rank == 1) for path in kept)
    torch.distributed.destroy_process_group()


def test_a_loss_that_is_no_number_names_its_step(config: FitConfig, tmp_path: Path) -> None:
    wild = config.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingFailed, match=r"loss is (nan|inf) at step 2 of 15"):
        train(wild, Local(tmp_path).worker)


def test_missing_data_is_the_users_fault(config: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(BadDataset):
        train(config.model_copy(update={"train_file": tmp_path / "gone.parquet"}), Local(tmp_path).worker)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    shares = [rate_share(step, 10, 0.2) for step in range(1, 11)]
    assert shares == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rate_share(1, 10, 0.0) == 1.0
    assert rate_share(1, 1, 1.0) == 1.0
