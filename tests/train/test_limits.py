"""Too little memory; a loss that leaves the ground; batches that are measured."""

from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.errors import TrainingFailed
from luthier.platform.data import plan
from luthier.platform.options import BatchSize
from luthier.platform.tasks import TaskType
from luthier.train import limits, room, run
from luthier.train.config import FitConfig, StepRecord
from luthier.train.limits import check_loss
from luthier.train.loop import train
from luthier.train.model import TunedModel
from luthier.train.packing import Batch
from luthier.train.room import is_out_of_memory
from tests.train.conftest import for_task
from tests.train.local import Local, alone, assert_same, silent_run, silent_worker


class Memory:
    """Stands before a model's losses and runs out above so many tokens, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int, times: int = 1_000_000) -> None:
        self.tokens, self.times = tokens, times
        self.passes, self.failed = list[int](), list[int]()
        self._real = TunedModel.token_losses
        memory = self

        def token_losses(model: TunedModel, batch: Batch) -> Any:
            return memory.losses(model, batch)

        monkeypatch.setattr(TunedModel, "token_losses", token_losses)

    def losses(self, model: TunedModel, batch: Batch) -> Any:
        if batch.num_tokens > self.tokens and self.times:
            self.times -= 1
            self.failed.append(batch.num_tokens)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.passes.append(batch.num_tokens)
        return self._real(model, batch)


def limit_file(config: FitConfig) -> Path:
    return config.storage_path / config.job_id / "pass_tokens"


@pytest.mark.parametrize(("task", "tokens"), [(TaskType.INSTRUCTION_FINETUNE, 100), (TaskType.DPO, 200)])
@pytest.mark.parametrize("times", [1, 1_000_000], ids=["once", "always"])
def test_without_memory_passes_shrink_and_the_run_goes_on(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: TaskType, tokens: int, times: int
) -> None:
    config = for_task(config, task)
    expected = alone(config)
    memory = Memory(monkeypatch, tokens, times)
    local = Local(tmp_path / "kept")
    assert_same(train(config, local.worker), expected, 1e-3)

    notes = [words for kind, words in local.events if kind == "OUT_OF_MEMORY"]
    assert notes
    assert all("Passes are halved" in words for words in notes)
    assert len(notes) == len(memory.failed)
    assert max(memory.passes) <= (tokens if times > 1 else memory.failed[0] // 2)
    assert int(limit_file(config).read_text()) < min(memory.failed)


def test_a_later_worker_knows_of_it(config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, 100)
    first = Local(tmp_path / "first")
    train(config, first.worker)
    memory.passes.clear()
    second = Local(tmp_path / "second", first.folder / "8")
    train(config, second.worker)
    assert "OUT_OF_MEMORY" not in second.kinds()
    assert memory.passes


def test_a_row_that_does_not_fit_ends_the_run(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(monkeypatch, 20)
    local = Local(tmp_path / "kept")
    with pytest.raises(TrainingFailed, match=r"One row needs more memory.*lower context_length.*2.00 GiB"):
        train(config, local.worker)
    assert len(local.events) < 12


def test_other_errors_are_no_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


class Broken(torch.autograd.Function):
    """Passes losses on, and gives them a gradient that is no number."""

    @staticmethod
    def forward(ctx: Any, losses: torch.Tensor) -> torch.Tensor:
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * float("nan")


def assert_last_checkpoint_is_finite(local: Local, step: int) -> None:
    assert max(int(p.name) for p in local.folder.iterdir()) == step
    for kept in local.folder.iterdir():
        state = torch.load(kept / "trainer.pt")
        assert all(weight.isfinite().all() for weight in state["weights"].values())
        assert all(v.isfinite().all() for moments in state["moments"].values() for v in moments.values())


def test_a_gradient_that_is_no_number_stops_the_run(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = TunedModel.token_losses, list[int]()

    def token_losses(model: TunedModel, batch: Batch) -> Any:
        losses, documents = real(model, batch)
        calls.append(1)
        return (Broken.apply(losses) if len(calls) == 8 else losses), documents  # after 5 steps and an evaluation

    monkeypatch.setattr(TunedModel, "token_losses", token_losses)
    local = Local(tmp_path / "kept")
    with pytest.raises(TrainingFailed, match=r"gradient's norm is nan at step 7 of 15\. Try a smaller learning rate"):
        train(config, local.worker)
    assert_last_checkpoint_is_finite(local, 6)


def test_a_loss_that_is_no_number_names_its_step(config: FitConfig, tmp_path: Path) -> None:
    wild = config.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingFailed, match=r"loss is (nan|inf) at step 2 of 15"):
        train(wild, Local(tmp_path).worker)


def test_weights_that_are_no_numbers_are_not_kept(config: FitConfig, tmp_path: Path) -> None:
    """The loss before the fatal update was sound: only the weights tell."""
    wild = config.model_copy(update={"learning_rate": 1e39, "checkpoint_steps": 1, "warmup_share": 0.0})
    local = Local(tmp_path / "kept")
    with pytest.raises(TrainingFailed, match="weights are no numbers after step 1"):
        train(wild, local.worker)
    assert not local.folder.exists()


def test_an_exploding_loss_stops_the_run(config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step 9 on all losses grow."""
    real, calls = TunedModel.token_losses, list[int]()

    def token_losses(model: TunedModel, batch: Batch) -> Any:
        losses, documents = real(model, batch)
        calls.append(1)
        return losses * (9.0 if len(calls) > 9 else 1.0), documents

    monkeypatch.setattr(TunedModel, "token_losses", token_losses)
    local = Local(tmp_path / "kept")
    with pytest.raises(TrainingFailed, match=r"loss explodes: \d+\.\d\d at step (1[0-4]) of 15, \d\.\d\d at first"):
        train(config, local.worker)
    assert_last_checkpoint_is_finite(local, max(int(p.name) for p in local.folder.iterdir()))


def history(*losses: float) -> list[StepRecord]:
    return [StepRecord(step=at, epoch=1, training_loss=loss, num_tokens=1) for at, loss in enumerate(losses, 1)]


def test_noise_and_slow_starts_are_no_explosion() -> None:
    check_loss(30.0, 1.0, history(*[2.0] * 20), 21, 30)
    check_loss(50.0, 1.0, history(1.0, 1.0), 3, 30)
    check_loss(4.9, 1.0, history(*[2.0] * 5, *[4.9] * 10), 16, 30)
    with pytest.raises(TrainingFailed, match=r"explodes: 5\.10"):
        check_loss(5.1, 1.0, history(*[2.0] * 5, *[5.1] * 10), 16, 30)


@pytest.mark.parametrize(("task", "most"), [(TaskType.INSTRUCTION_FINETUNE, 4096), (TaskType.DPO, 256)])
def test_an_automatic_batch_is_measured_once_and_kept(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: TaskType, most: int
) -> None:
    """It ends where memory does, or where longer passes gain nothing on this device."""
    monkeypatch.setattr(limits, "FIRST_TRY", 64)
    config = for_task(config, task).model_copy(update={"batch": None, "max_pass_tokens": most})
    memory = Memory(monkeypatch, 300)
    whole = Local(tmp_path / "whole")
    expected = train(config, whole.worker)

    assert limit_file(config).read_text() == "256"
    assert 128 < max(memory.passes) <= 300
    assert bool(memory.failed) == (most > 300)
    num_tokens = sum(r.num_tokens for r in expected if r.epoch == 1)
    kept = torch.load(whole.folder / "4" / "trainer.pt")["batch"]
    assert kept == {"rows": None, "tokens": max(16, num_tokens // 20)}
    assert sum(1 for r in expected if r.epoch == 1) == 19
    assert ("BATCH_SIZE", f"Passes of 256 tokens fit; a batch has up to {kept['tokens']} tokens") in whole.events

    memory.tokens = 200  # another machine
    limit_file(config).unlink()
    resumed = Local(tmp_path / "resumed", whole.folder / "4")
    assert_same(train(config, resumed.worker), expected, 1e-4)
    assert "BATCH_SIZE" not in resumed.kinds()


def test_a_measured_batch_fills_the_pass_where_rows_abound(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FIRST_TRY", 16)
    monkeypatch.setattr(plan, "AUTO_STEPS", 2)
    Memory(monkeypatch, 130)
    run = silent_run(config.model_copy(update={"batch": None}))
    assert run.state.batch == BatchSize(tokens=128)
    assert all(p.grad is None for p in run.model.trainable())


def test_a_host_without_room_takes_small_passes(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "HOST_SHARE", 0.0)
    monkeypatch.setattr(limits, "FIRST_TRY", 64)
    run = silent_run(config.model_copy(update={"batch": None}))
    assert run.limit.max_tokens == 32


def test_a_given_batch_is_not_measured(config: FitConfig, tmp_path: Path) -> None:
    local = Local(tmp_path / "kept")
    run_of = run.Run(config, local.worker)
    assert run_of.state.batch == config.batch
    assert local.kinds() == ["MODEL_INITIALIZED", "DATA_VALIDATED"]
    assert silent_worker().resume_from is None
