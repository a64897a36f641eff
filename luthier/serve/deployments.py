"""The Serve applications: the gateway, an engine for each base model, one for each version with weights of its own.

Replica numbers, resources and names that the dashboard shows stand only here.
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray._private.state import available_resources_per_node
from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.serve.schema import ApplicationStatusOverview

from luthier.errors import NotServed
from luthier.platform.base_models import BaseModel, Catalog, EngineSettings, load_catalog
from luthier.platform.models import ModelVersion
from luthier.platform.registry.actor import registry_client
from luthier.platform.settings import GIB, Settings
from luthier.platform.weights.tensors import weight_bytes
from luthier.serve.api import build_api
from luthier.serve.full_weights import PREFIX, Engine, State, with_full_weights
from luthier.serve.handles import Application, HandleCompletions
from luthier.serve.metering.access_log import open_access_log
from luthier.serve.nodes import Node, Nodes
from luthier.serve.ray_replica import adapt_replica
from luthier.serve.replica import FullReplica, Replica
from luthier.serve.routing import by_adapter
from luthier.serve.services import make_services
from luthier.serve.threads import CONTROLLER

GATEWAY = "gateway"
MAX_ONGOING = 10_000
"""Above the 4,096 connections that HAProxy takes: Serve queues nothing, so whatever is too much is refused by us."""
LOGGING = {"enable_access_log": False}
"""Of Ray Serve: our own says more."""
DRAIN_SECONDS = 600
"""A replica that goes finishes its answers first; as long as a HAProxy that another replaced."""
REPORT_SECONDS, WINDOW_SECONDS = 2.0, 6.0
"""How often replicas tell Serve how much is asked, and the time whose mean decides."""
SCALING = {"min_replicas", "max_replicas", "target_ongoing_requests", "scale_up_s", "scale_down_s"}
"""What of an engine's settings changes without a new replica."""

UNEXPECTED: int = NodeDeathInfo.UNEXPECTED_TERMINATION
"""The end of a node that nobody took away."""


def gateway_target(settings: Settings, catalog: Catalog) -> serve.RunTarget:
    def build() -> FastAPI:
        adapt_replica()
        completions = HandleCompletions(settings.serve_base_models)
        services = make_services(settings, registry_client(), completions, access_log=open_access_log(settings))
        whole = with_full_weights(services, ServeApplications(settings))
        return build_api(replace(whole, nodes=partial(nodes_for, settings)))

    rows = [base.model_dump_json() for base in catalog]
    app = _deployed(serve.ingress(build)(), GATEWAY, _version(settings.model_dump_json(), *rows), {"num_cpus": 0})
    return serve.RunTarget(app.options(num_replicas=1, max_surge_percent=100).bind(), name=GATEWAY, route_prefix="/")


def engine_target(settings: Settings, base: BaseModel) -> serve.RunTarget:
    resources = _resources(base.engine)
    app = _deployed(serve.ingress()(Replica), base.name, engine_version(settings, base), resources).options(
        **_scaling(base.engine), max_surge_percent=_surge(resources), request_router_config=by_adapter()
    )
    target = app.bind(settings, base.name, ServeApplications(settings))
    return serve.RunTarget(target, name=base.name, route_prefix=f"/m/{base.name}")


def engine_version(settings: Settings, base: BaseModel) -> str:
    """Another one asks for new replicas."""
    kept = settings.model_dump_json(exclude={"serve_base_models"})
    return _version(kept, base.model_dump_json(exclude={"engine": SCALING}))


def beyond_nodes(base: BaseModel) -> str | None:
    """Why none of the nodes that are there can hold an engine of the base model."""
    size, unit, wanted = base.engine.tensor_parallel_size, "GPU" if _has_gpus() else "CPU", base.engine.resources
    largest = int(_most_of_a_node(unit))
    if 1 < size > largest:
        return (
            f"An engine of base model {base.name} takes {size} {unit}s of one node (engine.tensor_parallel_size), and "
            f"the largest node has {largest}."
        )
    if not _have(wanted, _nodes()):
        words = ", ".join(f"{name}: {number:g}" for name, number in wanted.items())
        return f"An engine of base model {base.name} takes {words} of one node (engine.resources), and no node has it."
    return None


async def nodes_for(settings: Settings) -> Nodes:
    """Those that there are, for the engines that are served."""
    return await CONTROLLER.run(_nodes_for, settings)


def _nodes_for(settings: Settings) -> Nodes:
    catalog = load_catalog(settings)
    reasons = {name: beyond_nodes(catalog.get(name)) for name in settings.serve_base_models}
    return Nodes(nodes=_known_nodes(), waiting={name: reason for name, reason in reasons.items() if reason})


def _known_nodes() -> list[Node]:
    """Those that are there, then those that were lost, unless they came back by their names."""
    known = ray.nodes()
    there = [_node(each, is_lost=False) for each in known if each["Alive"]]
    names = {node.name for node in there}
    ended = (each for each in known if not each["Alive"] and each["DeathReason"] == UNEXPECTED)
    lost = {node.name: node for node in (_node(each, is_lost=True) for each in ended) if node.name not in names}
    return [*there, *lost.values()]


def _node(known: dict[str, Any], is_lost: bool) -> Node:
    return Node(
        id=known["NodeID"],
        name=known["NodeName"],
        address=known["NodeManagerAddress"],
        is_lost=is_lost,
        resources=known["Resources"],
    )


@dataclass(frozen=True)
class ServeApplications:
    """The applications of versions with weights of their own, as Serve knows them."""

    settings: Settings

    def states(self) -> dict[str, State]:
        found = serve.status().applications
        return {
            name: _state(app) for name, app in found.items() if name.startswith(PREFIX) and app.status != "DELETING"
        }

    def memory(self, version: ModelVersion) -> int:
        base = load_catalog(self.settings).get(version.base_model)
        return 0 if _resources(base.engine)["num_gpus"] else _memory_on_cpu(base, version)

    def start(self, name: str, version: ModelVersion, memory: int) -> None:
        base = load_catalog(self.settings).get(version.base_model)
        resources = _resources(base.engine) | ({"memory": memory} if memory else {})
        content = _version(version.sha256, engine_version(self.settings, base))
        app = _deployed(FullReplica, name, content, resources).options(
            autoscaling_config={
                **_autoscaling(base.engine),
                "min_replicas": 0,
                "downscale_to_zero_delay_s": self.settings.full_model_idle_s,
            }
        )
        target = serve.RunTarget(app.bind(self.settings, version), name=name, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)

    def end(self, name: str) -> None:
        serve.delete(name, _blocking=False)

    def engine(self, name: str, model: str) -> Engine:
        return Application(name, model)


def _deployed(cls: type, name: str, version: str, resources: dict[str, Any]) -> serve.Deployment:
    """Serve replaces replicas when the version changes, and only then."""
    return serve.deployment(cls).options(
        name=name,
        version=version,
        _internal=True,  # without it Serve takes no version, and replaces all replicas each time
        max_ongoing_requests=MAX_ONGOING,
        logging_config=LOGGING,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        ray_actor_options=resources,
    )


def _resources(engine: EngineSettings) -> dict[str, Any]:
    """On CPU the engine shares the machine with training: it reserves nothing, or two cores could never do both."""
    num_gpus = engine.tensor_parallel_size * engine.gpu_share if _has_gpus() else 0
    return {"num_cpus": 0, "num_gpus": num_gpus, "resources": engine.resources}


def _has_gpus() -> bool:
    return bool(ray.cluster_resources().get("GPU"))


def _nodes() -> list[dict[str, float]]:
    """The resources of each."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _have(wanted: dict[str, float], nodes: Iterable[dict[str, float]]) -> bool:
    """Whether one of them has all of it."""
    return any(all(node.get(name, 0) >= number for name, number in wanted.items()) for node in nodes)


def _most_of_a_node(resource: str) -> float:
    return max(float(node.get(resource, 0)) for node in _nodes())


def _scaling(engine: EngineSettings) -> dict[str, Any]:
    if engine.min_replicas == engine.max_replicas:
        return {"num_replicas": engine.min_replicas}
    return {"autoscaling_config": _autoscaling(engine)}


def _autoscaling(engine: EngineSettings) -> dict[str, Any]:
    return {
        "min_replicas": engine.min_replicas,
        "max_replicas": engine.max_replicas,
        "target_ongoing_requests": engine.target_ongoing_requests,
        "upscale_delay_s": engine.scale_up_s,
        "downscale_delay_s": engine.scale_down_s,
        "metrics_interval_s": REPORT_SECONDS,
        "look_back_period_s": WINDOW_SECONDS,
    }


def _surge(resources: dict[str, Any]) -> int:
    """Percent of the replicas that may run twice while new ones replace them: none where they would wait for a GPU.

    One node must have all that a replica takes.
    """
    wanted = {"GPU": resources["num_gpus"], **resources["resources"]}
    return 100 if _have(wanted, available_resources_per_node().values()) else 0


def _memory_on_cpu(base: BaseModel, version: ModelVersion) -> int:
    """Bytes of weights and cache. Raises NotServed when no node has so many."""
    weights = weight_bytes(Path(version.path))
    needed = weights + base.engine.kv_cache_gib * GIB
    largest = _most_of_a_node("memory")
    if needed > largest:
        raise NotServed(
            f"Model {version.model} takes {needed / GIB:.1f} GiB of memory to serve, and no node has more than "
            f"{largest / GIB:.1f} GiB. `luthier models export` gives it as a Hugging Face folder."
        )
    return needed


def _state(application: ApplicationStatusOverview) -> State:
    deployment = next(iter(application.deployments.values()), None)
    states = deployment.replica_states if deployment else {}
    return State(
        num_replicas=sum(number for state, number in states.items() if state != "STOPPING"),
        age_s=time.time() - application.last_deployed_time_s,
        failure=(deployment or application).message if application.status == "DEPLOY_FAILED" else None,
    )


def _version(*contents: str) -> str:
    text = "\n".join((version_of("luthier"), *contents))
    return hashlib.sha256(text.encode()).hexdigest()
