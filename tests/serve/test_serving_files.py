"""Each serving file that ships is a row, or rows, that a home can take as they stand."""

import os
import re
import shutil
from pathlib import Path
from unittest import mock

import pytest

from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.settings import GIB, Settings, configs_dir
from luthier.serve.engines.engine_args import engine_args, own_args, prepare_environment

FILES = sorted((configs_dir() / "serving").glob("*.toml"))
GPU_BYTES = 80 * 10**9


def served(file: Path, settings: Settings) -> list[BaseModel]:
    """The base models that the file's own comment says how to serve."""
    folder = settings.home / "base_models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder)
    named = re.search(r"LUTHIER_SERVE_BASE_MODELS='\[(.+)\]' luthier up", file.read_text())
    assert named, file
    catalog = load_catalog(settings)
    return [catalog.get(name.strip(' "')) for name in named[1].split(",")]


def test_there_are_some() -> None:
    assert {file.stem for file in FILES} >= {"one_gpu", "four_gpus", "two_models", "autoscaled", "two_cpu_ranks"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_fits_its_gpus(file: Path, settings: Settings) -> None:
    """Weights and adapters leave a third for the KV cache and activations."""
    bases = served(file, settings)
    assert len({base.name for base in bases}) == len(bases) == file.read_text().count("name = ")
    for base in bases:
        assert base.parameters
        # An adapter of all linear modules has near 0.65 permille of the weights for each rank.
        adapters = base.engine.max_loras * base.max_rank * 0.00065 * base.parameters
        room = GPU_BYTES * base.engine.tensor_parallel_size * base.engine.gpu_share
        assert 2 * (base.parameters + adapters) < 0.67 * room, base.name
        assert base.engine.max_loras <= base.engine.max_cpu_loras
    assert sum(base.engine.gpu_share for base in bases) <= max(1, *(base.engine.tensor_parallel_size for base in bases))


def test_four_gpus_are_one_engine(settings: Settings) -> None:
    (base,) = served(configs_dir() / "serving" / "four_gpus.toml", settings)
    assert engine_args(base, Path("weights"), use_gpu=True)["tensor_parallel_size"] == 4


def test_two_ranks_share_cores_and_cache(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a CPU: each has half of what one process would have."""
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    (base,) = served(configs_dir() / "serving" / "two_cpu_ranks.toml", settings)
    alone = base.model_copy(update={"engine": base.engine.model_copy(update={"tensor_parallel_size": 1})})
    monkeypatch.setattr("luthier.serve.engines.engine_args.num_threads", lambda _folder: 6)
    with mock.patch.dict(os.environ):
        for each, executor, threads in ((base, "mp", 3), (alone, UniProcExecutor, 6)):
            arguments = own_args(each, tmp_path, use_gpu=False)
            assert arguments["distributed_executor_backend"] == executor
            assert arguments["kv_cache_memory_bytes"] == base.engine.kv_cache_gib * GIB * threads / 6
            prepare_environment(each, tmp_path, use_gpu=False)
            assert os.environ["OMP_NUM_THREADS"] == str(threads)
            assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_ranks_on_gpus_are_vllms_processes(settings: Settings, tmp_path: Path) -> None:
    (base,) = served(configs_dir() / "serving" / "four_gpus.toml", settings)
    arguments = own_args(base, tmp_path, use_gpu=True)
    assert arguments["distributed_executor_backend"] == "mp"
    assert "kv_cache_memory_bytes" not in arguments


@pytest.mark.parametrize(
    ("dtype", "has_units", "use_gpu", "served_in"),
    [
        ("auto", True, False, "auto"),
        ("auto", False, False, "float32"),
        ("auto", False, True, "auto"),
        ("bfloat16", False, False, "bfloat16"),
    ],
)
def test_a_cpu_computes_in_what_it_is_fast_at(
    dtype: str, has_units: bool, use_gpu: bool, served_in: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.serve.engines.engine_args.has_bfloat16", lambda: has_units)
    (base,) = served(configs_dir() / "serving" / "autoscaled.toml", settings)
    base = base.model_copy(update={"engine": base.engine.model_copy(update={"dtype": dtype})})
    assert engine_args(base, Path("weights"), use_gpu)["dtype"] == served_in


def test_tokens_of_a_step_are_vllms_own_unless_told(settings: Settings) -> None:
    (base,) = served(configs_dir() / "serving" / "autoscaled.toml", settings)
    assert "max_num_batched_tokens" not in engine_args(base, Path("weights"), use_gpu=True)
    told = base.model_copy(update={"engine": base.engine.model_copy(update={"max_num_batched_tokens": 4096})})
    assert engine_args(told, Path("weights"), use_gpu=True)["max_num_batched_tokens"] == 4096


def test_one_to_four(settings: Settings) -> None:
    (base,) = served(configs_dir() / "serving" / "autoscaled.toml", settings)
    assert (base.engine.min_replicas, base.engine.max_replicas) == (1, 4)
