"""GET /m/<base model>/metrics: what the replica that answers tells Prometheus, vLLM's own metrics among it.

Each series names the replica: the next scrape may reach another one.
"""

from collections.abc import Iterator
from copy import copy

from fastapi import APIRouter, Request, Response
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from luthier.serve.admission import Admission
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.metrics import scraped

router = APIRouter()


@router.get("/metrics")
def engine_metrics(request: Request, caller: CallerOf, services: ServicesOf) -> Response:
    """They are of all accounts."""
    services.registry.accounts.check_operator(caller)
    return scraped(request, _OfReplica(request.app.state.replica))


class _OfReplica(Collector):
    """All of this process, with the replica's name."""

    def __init__(self, replica: str) -> None:
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        for metric in REGISTRY.collect():
            told = copy(metric)
            told.samples = [each._replace(labels={**each.labels, "replica": self._replica}) for each in metric.samples]
            yield told


class Places(Collector):
    """How full an engine is, and how often it refused."""

    def __init__(self, base_model: str, admission: Admission) -> None:
        self._base_model, self._admission = base_model, admission

    def collect(self) -> Iterator[Metric]:
        labels, values = ("base_model",), (self._base_model,)
        places = GaugeMetricFamily("luthier_sequences", "That are generated or wait.", labels=labels)
        places.add_metric(values, self._admission.num_taken)
        refused = CounterMetricFamily("luthier_requests_refused", "For want of a place.", labels=labels)
        refused.add_metric(values, self._admission.num_refused)
        yield from (places, refused)
