"""How vLLM is started for a base model: its arguments, its environment and its metrics."""

import os
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import REGISTRY

from luthier.platform.base_models import BaseModel, EngineSettings
from luthier.platform.processor import has_bfloat16
from luthier.platform.settings import GIB
from luthier.platform.weights.base_shapes import linear_modules, served_modules
from luthier.platform.weights.lora import last_names
from luthier.platform.weights.tensors import weight_bytes

GPU_MEMORY = 0.9
"""Of a GPU that the engine has to itself."""
LOOPBACK = Path("/sys/class/net/lo")
SMALL_BYTES = 64 << 20
"""Weights below this compute less than several threads spend on waiting for each other."""


def prepare_environment(base: BaseModel, base_dir: Path, use_gpu: bool) -> None:
    """vLLM reads these when it is imported, and hands them to its processes."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a prompt is one text: no pool of threads is worth it
    if LOOPBACK.is_dir():  # or it listens where the host's name leads, for anybody
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK.name)
    if not use_gpu:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would go before the argument
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # or each rank wants a NUMA node of its own
        threads = max(1, num_threads(base_dir) // base.engine.tensor_parallel_size)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray says 1 to what reserves no CPU


def keep_environment() -> None:
    """For a process with one engine, once it has started: vLLM asks os.environ for each token of each answer."""
    from vllm.envs import enable_envs_cache

    enable_envs_cache()


def num_threads(base_dir: Path) -> int:
    """That compute on a CPU."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if weight_bytes(base_dir) < SMALL_BYTES else min(cpus, psutil.cpu_count(logical=False) or cpus)


def engine_args(base: BaseModel, weights: Path, use_gpu: bool, with_adapters: bool = True) -> dict[str, Any]:
    """What is alike wherever the model is served by vLLM."""
    engine = base.engine
    return {
        "model": str(weights),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        **({"max_num_batched_tokens": engine.max_num_batched_tokens} if engine.max_num_batched_tokens else {}),
        "scheduling_policy": "priority",
        "dtype": "float32" if engine.dtype == "auto" and not use_gpu and not has_bfloat16() else engine.dtype,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enforce_eager": not use_gpu,
        **({"gpu_memory_utilization": GPU_MEMORY * engine.gpu_share} if use_gpu else {}),
        **(_adapters(base) if with_adapters else {}),
    }


def _adapters(base: BaseModel) -> dict[str, Any]:
    return {
        "enable_lora": True,
        "worker_extension_cls": "luthier.serve.adapters.worker.AdapterWorker",
        "max_loras": base.engine.max_loras,
        "max_cpu_loras": base.engine.max_cpu_loras,
        "max_lora_rank": _lora_room(base.max_rank),
    }


def own_args(base: BaseModel, weights: Path, use_gpu: bool) -> dict[str, Any]:
    """What Luthier's engines have beyond that."""
    from vllm.config import StructuredOutputsConfig

    return {
        # One kind of grammar for all: vLLM holds one, and left to itself takes the kind that the first request needs.
        "structured_outputs_config": StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
        # No adapter changes anything else: left to itself vLLM keeps room for heads and embeddings, and computes them.
        "lora_target_modules": last_names(served_modules(linear_modules(weights))) or None,
        **_workers(base.engine, use_gpu),
    }


def _workers(engine: EngineSettings, use_gpu: bool) -> dict[str, Any]:
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    size = engine.tensor_parallel_size
    # On a CPU vLLM would compute in a process beside its scheduler; each spins while the other works, on two CPUs.
    # Several workers are vLLM's own processes: inside Ray it might make them Ray's.
    executor = {"distributed_executor_backend": "mp" if size > 1 else UniProcExecutor}
    if use_gpu:
        return executor if size > 1 else {}
    return {**executor, "kv_cache_memory_bytes": engine.kv_cache_gib * GIB // size}  # of each


def stat_loggers() -> list[type]:
    """vLLM's metrics but one: it has a series for each set of adapters that ever ran together, and keeps them all."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class Bounded(PrometheusStatLogger):  # type: ignore[misc] # vLLM has no types
        gauge_lora_info: Any

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.gauge_lora_info is not None:
                REGISTRY.unregister(self.gauge_lora_info)
                self.gauge_lora_info = None

    return [Bounded]


def _lora_room(rank: int) -> int:
    """The next rank that vLLM has kernels for."""
    return next(room for room in (8, 16, 32, 64, 128, 256) if room >= rank)
