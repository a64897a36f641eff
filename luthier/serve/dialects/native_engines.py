"""The native API on engines: which adapters are where, and how often they were found there."""

import asyncio
from typing import Any

from fastapi import APIRouter

from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.host_memory import AdapterStats

routes = APIRouter()


@routes.get("/engines")
async def engines(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """Each replica that answers: MODEL@VERSION in its engine's slots and in its host memory, all others on disk."""
    found = await services.completions.adapters()
    numbers = {number for stats in found for number in stats.in_memory}
    names = await asyncio.to_thread(services.registry.proofs.names, caller, numbers)
    return {"engines": [_row(stats, names) for stats in found]}


def _row(stats: AdapterStats, names: dict[int, str]) -> dict[str, Any]:
    """Adapters of other accounts, and of dropped models, have no names here and are counted."""
    named = {tier: [names[n] for n in getattr(stats, tier) if n in names] for tier in ("in_engine", "in_memory")}
    return {**stats.model_dump(), **named, "others": len(stats.in_memory) - len(named["in_memory"])}
