"""What a registry holds in Python's memory does not grow with the calls of replicas."""

import gc
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from luthier.platform.audit import Entry
from luthier.platform.credits import Want
from luthier.platform.jobs import now_ms
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import ADMIN, add_admin, make_record
from tests.fakes import Launcher

TIMES, ROUNDS, RECORDS = 4, 60, 5
MOST = 8 * 1024
"""Bytes that may have come to stay after all of ROUNDS; one small object a call would be more."""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(Settings(home=tmp_path), Launcher())
    add_admin(registry)
    registry.credits.top_up(ADMIN, ADMIN.account, 10**12, "key")
    return registry


def second(registry: Registry, number: int) -> None:
    """What a replica, a gateway and the actor's own thread ask in about a second."""
    for _ in range(4):
        registry.versions.epoch()
    registry.jobs.tick()
    registry.replicas.notice()
    total = 10_000 + RECORDS * number
    registry.credits.renew(
        "holder", [ADMIN], [Want(id="l", account="main", turn=number + 1, total_ucr=total, need_ucr=0)]
    )
    registry.ledger.append([make_record(f"req_{number}_{at}", leases=("l",)) for at in range(RECORDS)])
    registry.audit.append([refusal(number)])
    registry.keys.used({"key_1": number})


def refusal(number: int) -> Entry:
    who = {"account": ADMIN.account, "user": ADMIN.user, "role": ADMIN.role, "key": "key_1", "source": "127.0.0.1"}
    about = {"action": "complete", "object_kind": "model", "object_name": "nobody"}
    return Entry(id=f"req_{number}", time=now_ms(), **who, **about, is_allowed=False, status=404, reason="unknown")


def test_calls_leave_nothing_behind(registry: Registry) -> None:
    """At least once: caches fill, and threads that other tests have left hold something now and then."""
    tracemalloc.start()
    try:
        held = [held_after(registry, range(ROUNDS * time, ROUNDS * (time + 1))) for time in range(TIMES)]
    finally:
        tracemalloc.stop()
    assert min(after - before for before, after in pairwise(held)) < MOST, held


def held_after(registry: Registry, numbers: range) -> int:
    """Bytes."""
    for number in numbers:
        second(registry, number)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
