"""Which replica answers a call by a handle: for a tuned model one that holds its adapter, else by load.

Serve has this class in every process that calls a replica. HAProxy chooses by another hash (`haproxy_shim.py`): what
replicas tell of their memory brings both ways together.
"""

import asyncio
import math
import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from luthier.serve.asks import Ask

HELD = "adapters"
"""In what a replica tells of itself (`record_routing_stats`): versions in its memory, by number."""
TELL_SECONDS = 2.0
WAIT_SECONDS = 10.0
"""For a replica, where there is none: one that ended may be replaced soon, or only when another node joins."""
MOST_OF_MEAN = 1.5
"""As HAProxy's: who has more than that of the mean number of requests gets no model's more."""


class AdapterRouter(RequestRouter):  # type: ignore[misc] # Serve has no types
    async def _choose_replica_for_request(self, pending_request: PendingRequest, **how: Any) -> RunningReplica:
        """Serve would keep the request for as long as there is no replica."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await super()._choose_replica_for_request(pending_request, **how)
        except TimeoutError:
            raise DeploymentUnavailableError(self._deployment_id) from None

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The first that is there takes it."""
        adapter = None
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # after all of them, not at once
            adapter = adapter_of(pending_request.args)
        if adapter is None:  # of two the one that has less to do
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        found = [(str(each.replica_id), each) for each in candidate_replicas]
        loads = {name: self.replica_queue_len_cache.get(each.replica_id) or 0 for name, each in found}
        holders = {name for name, each in found if adapter in each.routing_stats.get(HELD, ())}
        by_name = dict(found)
        return [[by_name[name]] for name in ranked(adapter, loads, holders)]


def adapter_of(args: Sequence[Any]) -> int | None:
    """The number of the version that a call asks, if it is an adapter."""
    asked = args[0] if args else None
    first = asked[0] if isinstance(asked, list | tuple) and asked else asked
    resolved = first.resolved if isinstance(first, Ask) else None
    return resolved.adapter.number if resolved and resolved.adapter and not resolved.weights else None


def ranked(adapter: int, loads: dict[str, int], holders: set[str]) -> list[str]:
    """Replicas as they should be tried: those with room, of them who has the adapter, of them always the same order."""
    most = math.ceil(MOST_OF_MEAN * (sum(loads.values()) + 1) / len(loads))

    def place(replica: str) -> tuple[bool, bool, bytes]:
        own = blake2b(f"{adapter} {replica}".encode(), digest_size=8).digest()
        return loads[replica] + 1 > most, replica not in holders, own

    return sorted(loads, key=place)


def by_adapter() -> RequestRouterConfig:
    """For a deployment. Serve sends the class as it stands then to the processes that call."""
    return RequestRouterConfig(
        request_router_class=AdapterRouter,
        request_routing_stats_period_s=TELL_SECONDS,
        request_routing_stats_timeout_s=30,
    )
