"""Which adapters are where, as a caller and Prometheus see it; and what engines found of a model."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from luthier.cli.cluster_record import Cluster
from luthier.cli.cluster_status import status
from luthier.cli.profile import Profile, save_profile
from luthier.platform.models import Proof, ProofState
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.adapters.adapter_stats import AdapterStats, Loads
from luthier.serve.api import build_api
from luthier.serve.nodes import Node, Nodes
from luthier.serve.services import make_services
from tests.factories import KEY
from tests.fakes import LocalCompletions

LABELS = ("source", "tier", "model", "le")
MS = {"p50": 240.0, "max": 260.0}
STATS = AdapterStats(
    base_model="tiny",
    replica="r1",
    node="n1",
    in_engine=[1],
    in_memory=[7, 1],
    on_disk=[8, 1, 7],
    disk_bytes=3000,
    max_in_engine=4,
    max_in_memory=64,
    max_disk_bytes=9000,
    hits=5,
    misses=3,
    loads={
        "disk": Loads(count=2, seconds=0.5, buckets=[0, 0, 1, *[2] * 7], ms=MS),
        "storage": Loads(count=0, seconds=0, buckets=[0] * 10, ms=MS),
    },
    evictions=1,
    disk_evictions=4,
    refused=1,
)


@pytest.fixture
def counted(completions: LocalCompletions, tuned: str) -> None:
    completions.stats = [STATS]


def test_engines_tell_which_adapters_are_where(api: TestClient, counted: None) -> None:
    (engine,) = api.get("/luthier/v1/engines").json()["engines"]
    assert engine["in_engine"] == engine["in_memory"] == engine["on_disk"] == ["LUTHIER.PUBLIC.tuned@1"]
    assert engine["others"] == {"in_engine": 0, "in_memory": 1, "on_disk": 2}
    assert {name: engine[name] for name in ("replica", "hits", "misses")} == {"replica": "r1", "hits": 5, "misses": 3}
    assert (engine["loads"]["disk"]["count"], engine["loads"]["disk"]["ms"]) == (2, MS)


def test_engines_tell_on_which_nodes_they_are(
    settings: Settings, registry: Registry, completions: LocalCompletions, api: TestClient, counted: None
) -> None:
    """And which nodes there are."""
    node = Node(id="n1", name="second", address="10.0.0.2", is_lost=False, resources={"CPU": 2.0})

    async def nodes() -> Nodes:
        return Nodes(nodes=[node], waiting={"tiny": "no node has it"})

    services = replace(make_services(settings, registry, completions), nodes=nodes)
    with TestClient(build_api(services), headers=dict(api.headers)) as door:
        told = door.get("/luthier/v1/engines").json()
    assert [each["node"] for each in told["engines"]] == ["second"]
    assert (told["nodes"], told["waiting"]) == ([node.model_dump()], {"tiny": "no node has it"})


def test_prometheus_gets_the_same_numbers(api: TestClient, counted: None) -> None:
    families = text_string_to_metric_families(api.get("/metrics").text)
    samples = {
        (sample.name, *(sample.labels[name] for name in LABELS if name in sample.labels)): sample.value
        for family in families
        for sample in family.samples
        if sample.labels.get("replica") == "r1" and sample.labels.get("source") != "storage"
    }
    expected: dict[tuple[str, ...], float] = {
        ("luthier_adapter_hits_total",): 5,
        ("luthier_adapter_misses_total",): 3,
        ("luthier_adapter_evictions_total",): 1,
        ("luthier_adapter_disk_evictions_total",): 4,
        ("luthier_adapter_disk_bytes",): 3000,
        ("luthier_adapter_refused_total",): 1,
        **{("luthier_adapter_load_seconds_bucket", "disk", le): 0 for le in ("0.05", "0.1")},
        ("luthier_adapter_load_seconds_bucket", "disk", "0.25"): 1,
        **{
            ("luthier_adapter_load_seconds_bucket", "disk", le): 2
            for le in ("0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf")
        },
        ("luthier_adapter_load_seconds_count", "disk"): 2,
        ("luthier_adapter_load_seconds_sum", "disk"): 0.5,
        ("luthier_adapters", "engine"): 1,
        ("luthier_adapters", "memory"): 2,
        ("luthier_adapters", "disk"): 3,
        ("luthier_adapter_held", "engine", "LUTHIER.PUBLIC.tuned@1"): 1,
        ("luthier_adapter_held", "memory", "LUTHIER.PUBLIC.tuned@1"): 1,
        ("luthier_adapter_held", "disk", "LUTHIER.PUBLIC.tuned@1"): 1,
    }
    assert samples == expected


def test_status_has_them_by_replica(settings: Settings, server: str, counted: None) -> None:
    record = Cluster(
        id="c", address="", root_pid=None, url=server, dashboard=None, base_models=("tiny",), haproxy=False
    )
    (settings.home / "cluster.json").write_text(record.model_dump_json())
    assert status(settings)["replicas"] == {}
    save_profile(settings, Profile(url=server, api_key=KEY))
    assert status(settings)["replicas"]["r1"]["in_engine"] == ["LUTHIER.PUBLIC.tuned@1"]


def test_a_model_tells_what_its_engine_found(api: TestClient, registry: Registry, tuned: str) -> None:
    assert api.get(f"/luthier/v1/models/{tuned}").json()["proof"] == {
        "state": "unproved",
        "reason": "no engine has loaded it yet",
        "checked_on": None,
    }
    registry.proofs.report(1, Proof(state=ProofState.REFUSED, reason="damaged"))
    (listed,) = api.get("/luthier/v1/models").json()["models"]
    assert (listed["proof"]["state"], listed["proof"]["reason"]) == ("refused", "damaged")
