"""Layers that are computed again on the way back: the same result in less memory, and when that begins."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from luthier.errors import InvalidInput, TrainingFailed
from luthier.platform.data.prompts import Sample
from luthier.platform.options import Duration, Method, Unit
from luthier.platform.tasks import TaskType
from luthier.platform.weights.lora import LoraSettings
from luthier.train import limits, recompute
from luthier.train.config import FitConfig
from luthier.train.loop import train
from luthier.train.model import TunedModel
from luthier.train.packing import Batch, pack
from luthier.train.recompute import WORDS, Recompute, bytes_per_token, saved_bytes
from luthier.train.run import Run
from luthier.train.team import Team
from tests.train.conftest import for_task
from tests.train.local import Case, Local, alone, assert_same, error_of, run_cases, run_together, silent_run, spawn
from tests.train.plain import CPU, loaded

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "bf16": {"dtype": "bfloat16"},
    "dropout": {"lora": LoraSettings(rank=4, alpha=8, dropout=0.3)},
    "attention": {"lora": LoraSettings(rank=4, alpha=8, targets=("q_proj", "k_proj", "v_proj"))},
    "full": {"method": Method.FULL},
    "mixed": {"method": Method.FULL, "dtype": "bfloat16"},
}
ROWS = pack([(Sample(ids=tuple(range(length)), learned=((2, length),)),) for length in (40, 17, 66)])


def gradients(model: TunedModel) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(3)
    losses, _ = model.token_losses(ROWS)
    losses.sum().backward()
    return losses.detach(), {name: p.grad for name, p in model.named_trainable().items()}


def switched_on(model: TunedModel, folder: Path) -> TunedModel:
    assert Recompute(model, "on", folder / "file").is_on
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_and_gradients_stay_what_they_are(config: FitConfig, tmp_path: Path, name: str) -> None:
    config = config.model_copy(update=VARIANTS[name])
    losses, expected = gradients(loaded(config))
    ours, grads = gradients(switched_on(loaded(config), tmp_path))
    torch.testing.assert_close(ours, losses, rtol=0, atol=1e-5)
    assert grads.keys() == expected.keys()
    for each, grad in grads.items():
        torch.testing.assert_close(grad, expected[each], rtol=1e-5, atol=1e-5, msg=each)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_pass_keeps_much_less(config: FitConfig, tmp_path: Path, name: str) -> None:
    """Of each layer one tensor [T, hidden] at most: 4 bytes by 64 in this model of two layers, beside head and ends."""
    model = loaded(config.model_copy(update=VARIANTS[name]))
    before = bytes_per_token(model)
    after = bytes_per_token(switched_on(model, tmp_path))
    assert after < before / 3
    assert after <= 4 * 64 * (2 + 4) + 200


def test_bytes_are_foretold(config: FitConfig) -> None:
    model = loaded(config)
    few, many = saved_bytes(model, 64), saved_bytes(model, 512)
    assert many - few == pytest.approx(bytes_per_token(model) * (512 - 64), rel=0.01)
    assert all(p.grad is None for p in model.trainable())


def _bytes_of_shares(rank: int, size: int, configs: list[FitConfig], folder: Path) -> None:
    for config in configs:
        model = TunedModel.load(config, CPU, Team(rank, size, CPU, is_sharded=True))
        before = bytes_per_token(model)
        after = bytes_per_token(switched_on(model, folder))
        (folder / f"{config.method}-{rank}").write_text(f"{before} {after}")


def test_a_pass_through_shares_keeps_much_less(config: FitConfig, tmp_path: Path) -> None:
    configs = [config.model_copy(update={"method": method}) for method in (Method.LORA, Method.FULL)]
    spawn(2, tmp_path, _bytes_of_shares, configs, tmp_path)
    for each in configs:
        for rank in (0, 1):
            before, after = map(float, (tmp_path / f"{each.method}-{rank}").read_text().split())
            assert 0 < after < before / 3


def test_a_way_there_alone_keeps_nothing_and_answers_stay(config: FitConfig, tmp_path: Path) -> None:
    model = loaded(config)
    prompts = [[5, 6, 7], [8, 9]]
    model.module.eval()
    expected = model.generate(prompts, 8, 0)
    assert switched_on(model, tmp_path).generate(prompts, 8, 0) == expected
    with torch.no_grad():
        assert not model.token_losses(ROWS)[0].requires_grad


# runs


def run_of(config: FitConfig, name: str, mode: str, sharding: str = "none") -> FitConfig:
    update = {
        "method": Method.FULL if name == "full" else Method.LORA,
        "learning_rate": 1e-3,
        "duration": Duration(num=1, unit=Unit.EPOCHS),
        "max_pass_tokens": 150,
        "activation_checkpointing": mode,
        "sharding": sharding,
        "job_id": f"ft_{name}_{mode}_{sharding}",
    }
    task = TaskType.DPO if name == "dpo" else TaskType.CHAT_COMPLETION
    return for_task(config, task).model_copy(update=update)


@pytest.mark.parametrize("name", ["chat", "dpo", "full"])
def test_one_worker_learns_the_same(config: FitConfig, tmp_path: Path, name: str) -> None:
    local = Local(tmp_path / "on")
    assert_same(train(run_of(config, name, "on"), local.worker), alone(run_of(config, name, "off")), 1e-5)
    assert ("MODEL_INITIALIZED", WORDS) in local.events
    plain = Local(tmp_path / "auto")
    train(run_of(config, name, "auto"), plain.worker)
    assert ("MODEL_INITIALIZED", WORDS) not in plain.events


def test_two_workers_learn_the_same(config: FitConfig, tmp_path: Path) -> None:
    """Each with the whole model, or with a share of it."""
    names = [(name, sharding) for name in ("chat", "dpo", "full") for sharding in ("none", "full")]
    cases = {
        (name, sharding, mode): Case(run_of(config, name, mode, sharding), tmp_path / f"{name}-{sharding}-{mode}")
        for name, sharding in names
        for mode in ("on", "off")
    }
    run_together(2, list(cases.values()), tmp_path)
    for name, sharding in names:
        ours, theirs = (cases[name, sharding, mode].histories() for mode in ("on", "off"))
        assert len(ours) == 2
        for history, expected in zip(ours, theirs, strict=True):
            assert_same(history, expected, 1e-5)


# when it begins


class Memory:
    """Stands before a model's losses: what a pass keeps for its way back has to fit into so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
        self.num_bytes, self.passes = num_bytes, list[int]()
        real, memory = TunedModel.token_losses, self

        def token_losses(model: TunedModel, batch: Batch) -> Any:
            memory.passes.append(batch.num_tokens)
            with saved_tensors_hooks(Budget(memory.num_bytes), lambda tensor: tensor):
                return real(model, batch)

        monkeypatch.setattr(TunedModel, "token_losses", token_losses)


class Budget:
    """Takes tensors until they are more than so many bytes."""

    def __init__(self, num_bytes: float) -> None:
        self.num_bytes, self.kept = num_bytes, dict[int, int]()

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.kept[storage._cdata] = storage.nbytes()
        if sum(self.kept.values()) > self.num_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return tensor.detach()


@pytest.fixture
def memory(config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Too little for the longest row, unless its layers are computed again."""
    longest = int(silent_run(config).training.lengths.max())
    model = loaded(config)
    plain = saved_bytes(model, longest)
    again = saved_bytes(switched_on(model, tmp_path), longest)
    assert again < plain
    return Memory(monkeypatch, (plain + again) / 2)


def lacks(local: Local) -> list[str]:
    return [words for kind, words in local.events if kind == "OUT_OF_MEMORY"]


def test_it_begins_where_one_row_does_not_fit(config: FitConfig, tmp_path: Path, memory: Memory) -> None:
    """Passes become smaller first; a later attempt knows of both."""
    enough, memory.num_bytes = memory.num_bytes, float("inf")
    expected = alone(config)
    memory.num_bytes = enough
    local = Local(tmp_path / "kept")
    assert_same(train(config, local.worker), expected, 1e-4)
    *halved, begun = lacks(local)
    assert begun == f"{WORDS}; the run goes on"
    assert halved
    assert all("Passes are halved" in words for words in halved)

    later = Local(tmp_path / "later", local.folder / "8")
    assert_same(train(config, later.worker), expected, 1e-4)
    assert lacks(later) == []
    assert ("MODEL_INITIALIZED", WORDS) in later.events


def test_where_it_is_off_or_no_help_the_run_ends(config: FitConfig, tmp_path: Path, memory: Memory) -> None:
    local = Local(tmp_path / "off")
    told = r"lower context_length or leave activation_checkpointing at auto\. \(CUDA"
    with pytest.raises(TrainingFailed, match=told):
        train(config.model_copy(update={"activation_checkpointing": "off"}), local.worker)
    assert all("Passes are halved" in words for words in lacks(local))
    memory.num_bytes = 1000
    local = Local(tmp_path / "auto")
    with pytest.raises(TrainingFailed, match=r"lower context_length\. \(CUDA"):
        train(config.model_copy(update={"job_id": "ft_2"}), local.worker)
    assert f"{WORDS}; the run goes on" in lacks(local)


def test_an_automatic_batch_is_measured_with_it(
    config: FitConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory
) -> None:
    monkeypatch.setattr(limits, "FIRST_TRY", 16)
    local = Local(tmp_path / "kept")
    run = Run(config.model_copy(update={"batch": None}), local.worker)
    assert lacks(local) == [f"{WORDS}; the run goes on"]
    assert run.state.batch
    assert run.limit.max_tokens >= 16


@pytest.mark.parametrize(("share", "begins"), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_it_begins_at_once_on_a_gpu_without_room_for_the_longest_row(
    config: FitConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, begins: bool, mode: str
) -> None:
    config = config.model_copy(update={"activation_checkpointing": mode})
    run = silent_run(config)
    needed = run.training.lengths.max() * bytes_per_token(run.model)
    monkeypatch.setattr(recompute, "room_ahead", lambda model: share * needed)
    local = Local(tmp_path)
    Run(config, local.worker)
    assert (("MODEL_INITIALIZED", WORDS) in local.events) == (begins and mode == "auto")


def without_memory_unless_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TunedModel.token_losses

    def token_losses(model: TunedModel, batch: Batch) -> Any:
        if "forward" not in vars(model.layers()[0]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch)

    monkeypatch.setattr(TunedModel, "token_losses", token_losses)
    monkeypatch.setattr(recompute, "room_ahead", lambda model: float("inf"))


def test_it_begins_where_even_the_passes_that_tell_do_not_fit(
    config: FitConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_memory_unless_again(monkeypatch)
    local = Local(tmp_path)
    Run(config, local.worker)
    assert ("MODEL_INITIALIZED", WORDS) in local.events


def test_a_share_without_memory_for_them_ends_its_process_and_the_next_begins_with_it(
    config: FitConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_memory_unless_again(monkeypatch)
    model, team = loaded(config), Team(0, 1, CPU)
    monkeypatch.setattr(team, "mesh", object())
    with pytest.raises(torch.OutOfMemoryError):
        Recompute(model, "auto", tmp_path / "file").prepare(100, team)
    assert Recompute(model, "auto", tmp_path / "file").is_on


def test_a_model_without_layers_is_left_as_it_is(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TunedModel, "layers", lambda model: [])
    monkeypatch.setattr(recompute, "room_ahead", lambda model: 0.0)
    silent_run(config)
    with pytest.raises(InvalidInput, match="names no layers"):
        silent_run(config.model_copy(update={"activation_checkpointing": "on"}))


def _with_room(rank: int, size: int, configs: list[FitConfig], rooms: list[float], folder: Path) -> None:
    """Whether it begins, when these are the bytes that the workers have, and what they learn then."""
    recompute.room_ahead = lambda model: rooms[rank]
    for config in configs:
        local = Local(folder / config.sharding)
        history = train(config, replace(local.worker, rank=rank, world_size=size))
        begins = ("MODEL_INITIALIZED", WORDS) in local.events
        torch.save((begins, history), folder / f"{config.sharding}-{rank}")


def test_workers_begin_together(config: FitConfig, tmp_path: Path) -> None:
    """Also where one of them alone lacks the room; those that share weights need it for a whole pass."""
    run = silent_run(config)
    row = float(run.training.lengths.max() * bytes_per_token(run.model))
    once = config.model_copy(update={"duration": Duration(num=1, unit=Unit.EPOCHS)})
    configs = [once.model_copy(update={"sharding": sharding}) for sharding in ("none", "full")]
    expected = alone(once)
    for name, rooms, begins in (
        ("none", [9 * row, 0.9 * row], {"none": True, "full": True}),
        ("some", [1.1 * row, 1.2 * row], {"none": False, "full": True}),
        ("much", [9 * row, 9 * row], {"none": False, "full": False}),
    ):
        (tmp_path / name).mkdir()
        spawn(2, tmp_path, _with_room, configs, rooms, tmp_path / name)
        for sharding, begun in begins.items():
            for rank in (0, 1):
                told, history = torch.load(tmp_path / name / f"{sharding}-{rank}", weights_only=False)
                assert told == begun, (name, sharding, rank)
                assert_same(history, expected, 1e-3)


def _without_memory_unless_again(rank: int, size: int, cases: list[Case]) -> None:
    real = TunedModel.token_losses

    def token_losses(model: TunedModel, batch: Batch) -> Any:
        if rank == 1 and torch.is_grad_enabled() and "forward" not in vars(model.layers()[0]):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch)

    with mock.patch.object(TunedModel, "token_losses", token_losses):
        run_cases(rank, size, cases)


def test_a_share_without_memory_ends_its_process_and_the_next_computes_again(config: FitConfig, tmp_path: Path) -> None:
    shared = config.model_copy(update={"sharding": "full", "max_pass_tokens": 1})
    case = Case(shared, tmp_path / "shared")
    assert "OutOfMemoryError" in error_of(1, 2, tmp_path, _without_memory_unless_again, [case])
    spawn(2, tmp_path, _without_memory_unless_again, [case])
    assert_same(case.histories()[0], alone(config.model_copy(update={"job_id": "ft_2"})), 1e-3)
