"""The native API on engines: which adapters are where, and how often they were found there."""

from typing import Any

from fastapi import APIRouter

from luthier.platform.access import Caller
from luthier.serve.adapters.adapter_stats import AdapterStats
from luthier.serve.doors.deps import CallerOf, ServicesOf
from luthier.serve.metrics import Adapters
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY

routes = APIRouter()

TIERS = ("in_engine", "in_memory", "on_disk")


@routes.get("/engines")
async def engines(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Each replica that answers: MODEL@VERSION in its engine's slots, in its host memory and on its node's disk.

    For who runs the platform with its counters, which are of all accounts' requests; and the nodes, lost ones too, with
    the base models whose engines wait for another (`waiting`, which says why).
    """
    adapters = await adapters_of(services, caller)
    rows = [_row(stats, adapters) for stats in adapters.stats]
    if not adapters.is_all:
        return {"engines": rows}
    nodes = await services.nodes()
    rows = [{**row, "node": nodes.name_of(row["node"])} for row in rows]
    return {"engines": rows, **nodes.model_dump()}


async def adapters_of(services: Services, caller: Caller) -> Adapters:
    """Adapters of other accounts, and of dropped models, have no names here."""
    found = await services.completions.adapters()
    numbers = {number for stats in found for tier in TIERS for number in getattr(stats, tier)}
    names = await REGISTRY.run(services.registry.proofs.names, caller, numbers)
    return Adapters(found, names, await REGISTRY.run(services.registry.accounts.is_operator, caller))


def _row(stats: AdapterStats, adapters: Adapters) -> dict[str, Any]:
    """Those without names are counted."""
    names = adapters.names
    named = {tier: [names[n] for n in getattr(stats, tier) if n in names] for tier in TIERS}
    if not adapters.is_all:
        return {**stats.model_dump(include={"base_model", "replica", "engine_tells"}), **named}
    others = {tier: len(getattr(stats, tier)) - len(named[tier]) for tier in TIERS}
    return {**stats.model_dump(), **named, "others": others}
