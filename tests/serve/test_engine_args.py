"""How vLLM is started: what its metrics keep."""

import os
from itertools import combinations
from pathlib import Path
from unittest import mock

from prometheus_client import REGISTRY

from luthier.serve.engines.engine_args import stat_loggers
from tests.tiny_model import build_tiny_model

ADAPTERS = [f"LUTHIER.PUBLIC.A{number}@0123456789abcdef" for number in range(8)]


def num_series() -> int:
    """Of vLLM."""
    metrics = [metric for metric in REGISTRY.collect() if metric.name.startswith("vllm:")]
    return sum(len(metric.samples) for metric in metrics)


def test_no_metric_has_a_series_for_each_set_of_adapters(tmp_path: Path) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.metrics.loggers import StatLoggerManager
    from vllm.v1.metrics.prometheus import unregister_vllm_metrics
    from vllm.v1.metrics.stats import SchedulerStats

    arguments = AsyncEngineArgs(model=str(build_tiny_model(tmp_path)), enable_lora=True, max_loras=4)
    with mock.patch.dict(os.environ):  # vLLM writes into it
        loggers = StatLoggerManager(arguments.create_engine_config(), [0], stat_loggers())
    try:
        counts = []
        for running in combinations(ADAPTERS, 2):
            loggers.record(SchedulerStats(num_running_reqs=7, running_lora_adapters=dict.fromkeys(running, 1)), None)
            counts.append(num_series())
        assert len(set(counts)) == 1
        (told,) = (metric for metric in REGISTRY.collect() if metric.name == "vllm:num_requests_running")
        assert [sample.value for sample in told.samples] == [7]
    finally:
        unregister_vllm_metrics()
