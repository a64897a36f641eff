"""A store that dies between any two writes of what moves credits: all or nothing, and the retry gives the right end."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.platform.credits import Want
from luthier.platform.jobs import JobError
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN, make_finished, make_job, make_progress, make_record


class Died(Exception):
    """The store did."""


class DyingStore:
    """Its connection breaks before the write that a test names, or before the commit."""

    def __init__(self, engine: sa.Engine) -> None:
        self.writes_left: int | None = None
        sa.event.listen(engine, "before_cursor_execute", self._execute)
        sa.event.listen(engine, "commit", self._commit)

    def _execute(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            self._count()

    def _commit(self, _connection: Any) -> None:
        self._count()

    def _count(self) -> None:
        if self.writes_left is not None:
            if not self.writes_left:
                raise Died
            self.writes_left -= 1


def want(id: str, turn: int, total: int) -> Want:
    return Want(id=id, account="main", turn=turn, total_ucr=total, need_ucr=total)


RECORDS = [make_record(f"req_{number}", amount_ucr=3, leases=("l1",)) for number in range(3)]
VERBS: dict[str, Callable[[Registry], object]] = {
    "submit": lambda registry: registry.jobs.submit(make_job("ft_2", "LUTHIER.PUBLIC.OTHER")),
    "finish": lambda registry: registry.jobs.finish("ft_1", make_finished(trained_tokens=40)),
    "cancel": lambda registry: registry.jobs.cancel(ADMIN, "ft_1"),
    "fail": lambda registry: registry.jobs.fail("ft_1", JobError(code="X", message="x"), billable=True),
    "settle": lambda registry: registry.ledger.append(RECORDS),
    "settle without a lease": lambda registry: registry.ledger.append([make_record("req_9", amount_ucr=4)]),
    "top up": lambda registry: registry.credits.top_up(ADMIN, "main", 7, "k2"),
    "new lease": lambda registry: registry.credits.renew("r2", [], [want("l2", 1, 9)]),
    "larger, smaller": lambda registry: registry.credits.renew("r1", [], [want("l1", 2, 30), want("l0", 2, 1)]),
    "heir": lambda registry: registry.credits.end_holder("r1"),
}


def all_rows(registry: Registry) -> dict[str, list[dict[str, Any]]]:
    store = registry.credits._store
    return {name: store.rows(sa.select(table)) for name, table in store.tables.tables.items()}


def sums(registry: Registry) -> tuple[int, ...]:
    """Of the limit, after a look that they are those of their parts."""
    rows = all_rows(registry)
    (limit,) = rows["limits"]
    assert limit["reserved_ucr"] == sum(row["amount_ucr"] - row["spent_ucr"] for row in rows["reservations"])
    assert limit["spent_ucr"] == sum(row["amount_ucr"] for row in rows["usage"])
    assert limit["granted_ucr"] == sum(row["amount_ucr"] for row in rows["topups"])
    return tuple(limit[f"{name}_ucr"] for name in ("granted", "spent", "reserved", "overrun"))


@pytest.fixture
def busy(registry: Registry) -> Registry:
    """A job runs, and a replica has two leases."""
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.report("ft_1", make_progress(trained_tokens=20))
    registry.credits.renew("r1", [], [want("l1", 1, 20), want("l0", 1, 10)])
    return registry


@pytest.mark.parametrize(
    ("verb", "ends"),
    [
        ("submit", (100, 0, 6 + 30 + 6, 0)),
        ("finish", (100, 4, 30, 0)),
        ("cancel", (100, 2, 30, 0)),
        ("fail", (100, 2, 30, 0)),
        ("settle", (100, 9, 6 + 21, 0)),
        ("settle without a lease", (100, 4, 36, 4)),
        ("top up", (107, 0, 36, 0)),
        ("new lease", (100, 0, 36 + 9, 0)),
        ("larger, smaller", (100, 0, 6 + 31, 0)),
        ("heir", (100, 0, 6, 0)),
    ],
)
def test_all_or_nothing(busy: Registry, verb: str, ends: tuple[int, ...]) -> None:
    dying, before = DyingStore(busy.credits._store.engine), all_rows(busy)
    for num_deaths in range(100):
        dying.writes_left = num_deaths
        try:
            VERBS[verb](busy)
        except Died:
            dying.writes_left = None
            assert all_rows(busy) == before
        else:
            break
    assert num_deaths >= 2
    dying.writes_left = None
    assert sums(busy) == ends
    after = all_rows(busy)
    VERBS[verb](busy)
    assert all_rows(busy) == after
