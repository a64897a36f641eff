"""What Prometheus scrapes: jobs, from one look at the registry, and adapters, as each replica counts them."""

from collections.abc import Iterator
from typing import NamedTuple

from fastapi import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from luthier.platform.jobs import JobCensus
from luthier.serve.adapters.adapter_stats import LOAD_SECONDS, AdapterStats

RUNNING = {
    "step": "Optimizer steps done.",
    "total_steps": "Optimizer steps of the whole run.",
    "training_loss": "Mean training loss of the last steps.",
    "validation_loss": "Validation loss of the last epoch.",
    "tokens_per_second": "Useful tokens a second.",
    "mfu": "Model FLOPs utilization, 0 to 1; on a known GPU only.",
    "trained_tokens": "Tokens trained so far.",
    "seconds_left": "Estimated seconds to the end.",
}
"""By their names in the job's progress."""


WHERE = ("base_model", "replica")
COUNTED = {
    "hits": "Requests that found their adapter in host memory.",
    "misses": "Requests that waited for their adapter.",
    "evictions": "Adapters that made room for others in host memory.",
    "disk_evictions": "Copies that made room for others on the node's disk.",
    "refused": "Loads of adapters that are not what was trained.",
}
"""By their names in a replica's numbers."""


class Adapters(NamedTuple):
    """Each replica's, as a caller may see them."""

    stats: list[AdapterStats]
    names: dict[int, str]
    """Of those that he may see."""
    is_all: bool
    """Whether he may know what all accounts' requests and adapters come to."""


def scraped(request: Request, *collectors: Collector) -> Response:
    """The text for a scrape, as the `Accept` header wants it."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    registry = CollectorRegistry(auto_describe=False)
    for each in collectors:
        registry.register(each)
    return Response(encode(registry), headers={"Content-Type": content_type})


class OfJobs(Collector):
    def __init__(self, account: str, census: JobCensus) -> None:
        self._account, self._census = account, census

    def collect(self) -> Iterator[Metric]:
        by_status = GaugeMetricFamily("luthier_jobs", "Fine-tuning jobs by status.", labels=("account", "status"))
        for status, count in self._census.counts.items():
            by_status.add_metric((self._account, status.value), count)
        yield by_status
        for name, words in RUNNING.items():
            gauge = GaugeMetricFamily(f"luthier_job_{name}", words, labels=("account", "job", "model"))
            for job in self._census.running:
                value = getattr(job.progress, name)
                if value is not None:
                    gauge.add_metric((self._account, job.id, job.model), value)
            yield gauge


class OfAdapters(Collector):
    """As many series as adapters are held, no more: what leaves memory leaves them too."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters, self._names, self._is_all = adapters

    def collect(self) -> Iterator[Metric]:
        if self._is_all:
            yield from self._sums()
        held = GaugeMetricFamily("luthier_adapter_held", "1 for each that is there.", labels=(*WHERE, "tier", "model"))
        for stats in self._adapters:
            for tier, numbers in _tiers(stats):
                for name in (self._names[number] for number in numbers if number in self._names):
                    held.add_metric((stats.base_model, stats.replica, tier, name), 1)
        yield held

    def _sums(self) -> Iterator[Metric]:
        for name, words in COUNTED.items():
            counter = CounterMetricFamily(f"luthier_adapter_{name}", words, labels=WHERE)
            for stats in self._adapters:
                counter.add_metric((stats.base_model, stats.replica), getattr(stats, name))
            yield counter
        loads = HistogramMetricFamily("luthier_adapter_load_seconds", "To the proof.", labels=(*WHERE, "source"))
        size = GaugeMetricFamily("luthier_adapter_disk_bytes", "Of copies on the node's disk.", labels=WHERE)
        counts = GaugeMetricFamily("luthier_adapters", "Adapters by where they are.", labels=(*WHERE, "tier"))
        for stats in self._adapters:
            replica = (stats.base_model, stats.replica)
            bounds = (*map(str, LOAD_SECONDS), "+Inf")
            for source, each in stats.loads.items():
                loads.add_metric((*replica, source), list(zip(bounds, each.buckets, strict=True)), each.seconds)
            size.add_metric(replica, stats.disk_bytes)
            for tier, numbers in _tiers(stats):
                counts.add_metric((*replica, tier), len(numbers))
        yield from (loads, size, counts)


def _tiers(stats: AdapterStats) -> Iterator[tuple[str, list[int]]]:
    if stats.engine_tells:
        yield "engine", stats.in_engine
    yield "memory", stats.in_memory
    yield "disk", stats.on_disk
