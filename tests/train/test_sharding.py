"""When workers share one model, how it comes to them, and what a lack of memory does there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch.distributed.tensor import DTensor

from luthier.errors import InvalidInput
from luthier.platform.options import Method
from luthier.train.config import FitConfig
from luthier.train.model import TunedModel
from luthier.train.packing import Batch
from luthier.train.sharding import chosen
from luthier.train.team import Team
from tests.train.local import Case, alone, assert_same, error_of, run_together, spawn

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_one_worker_and_cpus_share_nothing_unless_told(config: FitConfig) -> None:
    assert not chosen(config, CPU, 2)
    assert not chosen(config.model_copy(update={"sharding": "full"}), CPU, 1)
    assert not chosen(config.model_copy(update={"sharding": "none"}), GPU, 8)
    assert chosen(config.model_copy(update={"sharding": "full"}), CPU, 2)


@pytest.mark.parametrize(
    ("method", "sizes_of_files", "expected"),
    [
        (Method.LORA, 1.0, True),
        (Method.LORA, 3.0, False),
        (Method.FULL, 3.0, True),
        (Method.FULL, 20.0, False),
        (Method.QLORA, 1.0, False),
    ],
)
def test_a_model_is_shared_when_a_gpu_has_no_room_for_it(
    config: FitConfig, monkeypatch: pytest.MonkeyPatch, method: Method, sizes_of_files: float, expected: bool
) -> None:
    files = sum(file.stat().st_size for file in config.base_dir.glob("*.safetensors"))
    memory = SimpleNamespace(total_memory=int(sizes_of_files * files))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
    assert chosen(config.model_copy(update={"method": method}), GPU, 2) is expected


def test_a_base_in_four_bits_is_not_shared(config: FitConfig) -> None:
    told = config.model_copy(update={"method": Method.QLORA, "sharding": "full"})
    with pytest.raises(InvalidInput, match="qlora cannot be sharded"):
        chosen(told, GPU, 2)


def _loaded(rank: int, size: int, config: FitConfig, folder: Path) -> None:
    model = TunedModel.load(config, CPU, Team(rank, size, CPU, is_sharded=True))
    parameters = dict(model.module.named_parameters())
    assert all(isinstance(p, DTensor) for p in parameters.values())
    torch.save({name: tuple(p.to_local().shape) for name, p in parameters.items()}, folder / f"shapes-{rank}")
    weights = {name: p.full_tensor() for name, p in parameters.items()}
    buffers = dict(model.module.named_buffers())
    torch.save({**weights, **buffers}, folder / f"values-{rank}")


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_worker_has_its_rows_of_every_weight(
    config: FitConfig, tmp_path: Path, method: Method, dtype: str
) -> None:
    config = config.model_copy(update={"method": method, "dtype": dtype})
    spawn(2, tmp_path, _loaded, config, tmp_path)
    alike = TunedModel.load(config, CPU).module
    whole = {**dict(alike.named_parameters()), **dict(alike.named_buffers())}
    for rank in (0, 1):
        values = torch.load(tmp_path / f"values-{rank}")
        assert values.keys() == whole.keys()
        for name, value in values.items():
            assert value.dtype == whole[name].dtype
            assert torch.equal(value, whole[name]), name
    shapes = [torch.load(tmp_path / f"shapes-{rank}") for rank in (0, 1)]
    for name, p in alike.named_parameters():
        assert shapes[0][name][0] + shapes[1][name][0] == p.shape[0]
        assert shapes[0][name][0] == -(-p.shape[0] // 2)


def _with_little_memory(rank: int, size: int, cases: list[Case], tokens: int) -> None:
    from tests.train.local import run_cases

    real = TunedModel.token_losses

    def token_losses(model: TunedModel, batch: Batch) -> Any:
        if rank == 1 and batch.num_tokens > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(model, batch)

    with mock.patch.object(TunedModel, "token_losses", token_losses):
        run_cases(rank, size, cases)


def test_a_share_without_memory_ends_its_process_and_the_next_takes_smaller_passes(
    config: FitConfig, tmp_path: Path
) -> None:
    shared = config.model_copy(update={"sharding": "full"})
    case = Case(shared, tmp_path / "shared")
    for _ in range(2):
        assert "OutOfMemoryError" in error_of(1, 2, tmp_path, _with_little_memory, [case], 30)
    limit = int((config.storage_path / config.job_id / "pass_tokens").read_text())
    assert limit < 60
    run_together(2, [case], tmp_path)
    assert_same(case.histories()[0], alone(config.model_copy(update={"job_id": "ft_2"})), 1e-3)
