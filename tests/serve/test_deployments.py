"""What makes Serve replace an engine's replicas, and what only changes their number."""

import asyncio
import re
from typing import Any

import pytest
import ray
from ray import cloudpickle

from luthier.platform.base_models import load_catalog
from luthier.platform.settings import Settings
from luthier.serve import deployments
from luthier.serve.deployments import (
    SCALING,
    UNEXPECTED,
    beyond_nodes,
    engine_target,
    engine_version,
    gateway_target,
    nodes_for,
)


def version_of(settings: Settings, **engine: Any) -> str:
    base = load_catalog(settings).get("smollm2-135m")
    return engine_version(settings, base.model_copy(update={"engine": base.engine.model_copy(update=engine)}))


@pytest.mark.parametrize("key", sorted(SCALING))
def test_other_numbers_keep_the_replicas(settings: Settings, key: str) -> None:
    assert version_of(settings, **{key: 7}) == version_of(settings)


@pytest.mark.parametrize("key", ["max_num_seqs", "max_loras", "tensor_parallel_size", "kv_cache_gib"])
def test_another_engine_replaces_them(settings: Settings, key: str) -> None:
    assert version_of(settings, **{key: 7}) != version_of(settings)


def test_a_base_model_more_keeps_the_others(settings: Settings) -> None:
    more = settings.model_copy(update={"serve_base_models": ("smollm2-135m", "qwen3-8b")})
    assert version_of(more) == version_of(settings)
    assert version_of(settings.model_copy(update={"max_body_mib": 1})) != version_of(settings)


@pytest.mark.parametrize(
    ("free", "num_gpus", "surge"),
    [([2, 2], 4, 0), ([2, 4], 4, 100), ([0.4, 0.4], 0.5, 0), ([0, 0.5], 0.5, 100), ([0, 0], 0, 100), ([], 1, 0)],
)
def test_a_second_replica_needs_its_gpus_on_one_node(
    monkeypatch: pytest.MonkeyPatch, free: list[float], num_gpus: float, surge: int
) -> None:
    nodes = {f"node{number}": {"GPU": gpus, "CPU": 8.0} for number, gpus in enumerate(free)}
    monkeypatch.setattr(deployments, "available_resources_per_node", lambda: nodes)
    assert deployments._surge({"num_cpus": 0, "num_gpus": num_gpus, "resources": {}}) == surge
    assert deployments._surge({"num_cpus": 0, "num_gpus": num_gpus, "resources": {"engines": 1.0}}) == 0


@pytest.mark.parametrize(
    ("nodes", "size", "told"),
    [
        ([{"CPU": 2.0}], 1, None),
        ([{"CPU": 0.0}], 1, None),
        ([{"CPU": 2.0}, {"CPU": 4.0}], 4, None),
        ([{"CPU": 2.0}, {"CPU": 4.0}], 8, "takes 8 CPUs of one node .*, and the largest node has 4"),
        ([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0}], 8, None),
        ([{"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}], 16, "takes 16 GPUs of one node .* has 8"),
    ],
)
def test_an_engine_is_on_one_node(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], size: int, told: str | None
) -> None:
    gone = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 999.0}}
    there = [{"Alive": True, "Resources": resources} for resources in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [gone, *there])
    num_gpus = sum(resources.get("GPU", 0) for resources in nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": num_gpus})
    base = load_catalog(settings).get("smollm2-135m")
    base = base.model_copy(update={"engine": base.engine.model_copy(update={"tensor_parallel_size": size})})
    reason = beyond_nodes(base)
    assert reason is None if told is None else re.search(told, reason or "")


@pytest.mark.parametrize("wanted", [{}, {"engines": 1.0}, {"engines": 1.0, "accelerator_type:L4": 0.5}])
def test_an_engine_is_on_a_node_with_its_resources(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, float]
) -> None:
    there = [{"CPU": 2.0}, {"CPU": 1.0, "engines": 4.0}, {"accelerator_type:L4": 1.0}]
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": each} for each in there])
    monkeypatch.setattr("ray.cluster_resources", dict)
    base = load_catalog(settings).get("smollm2-135m")
    base = base.model_copy(update={"engine": base.engine.model_copy(update={"resources": wanted})})
    assert deployments._resources(base.engine)["resources"] == wanted
    assert beyond_nodes(base) == (
        "An engine of base model smollm2-135m takes engines: 1, accelerator_type:L4: 0.5 of one node "
        "(engine.resources), and no node has it."
        if len(wanted) > 1
        else None
    )


def test_lost_nodes_are_told_until_they_are_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, reason: int | None = None) -> dict[str, Any]:
        alive = {"NodeID": f"id of {name}", "NodeName": name, "NodeManagerAddress": "10.0.0.1", "Alive": reason is None}
        return {**alive, "DeathReason": reason or 0, "Resources": {"CPU": 2.0} if reason is None else {}}

    unexpected, drained = UNEXPECTED, UNEXPECTED + 1
    known = [node("lost", unexpected), node("back", unexpected), node("away", drained), node("lost", unexpected)]
    monkeypatch.setattr("ray.nodes", lambda: [*known, node("head"), node("back")])
    monkeypatch.setattr("ray.cluster_resources", dict)
    nodes = asyncio.run(nodes_for(settings))
    assert [(each.name, each.is_lost) for each in nodes.nodes] == [("head", False), ("back", False), ("lost", True)]
    assert (nodes.name_of("id of head"), nodes.name_of("id of none"), nodes.waiting) == ("head", "id of none", {})


def test_what_serve_is_given_can_be_sent(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """To other processes, wherever they are."""
    monkeypatch.setattr("ray.cluster_resources", dict)
    monkeypatch.setattr(deployments, "available_resources_per_node", dict)
    catalog = load_catalog(settings)
    for target in (gateway_target(settings, catalog), engine_target(settings, catalog.get("smollm2-135m"))):
        assert cloudpickle.dumps(target.target)
