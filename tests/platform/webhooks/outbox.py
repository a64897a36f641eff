"""What tests of webhooks do to the registry and its outbox."""

import asyncio

from luthier.platform.addresses import Addresses
from luthier.platform.credits import Budget, BudgetKind, Period
from luthier.platform.posting import Deliverer
from luthier.platform.registry.registry import Registry
from luthier.platform.webhooks import (
    NoticeType,
)
from tests.factories import ADMIN

LOCAL = Addresses(["127.0.0.0/8"])
DAY_MS = 86_400_000


def deliver(registry: Registry, addresses: Addresses = LOCAL) -> int:
    """One round, with its answers; how many were tried."""

    async def round() -> int:
        return len(await asyncio.gather(*await Deliverer(registry.outbox, addresses).round()))

    return asyncio.run(round())


def add(registry: Registry, url: str, *types: NoticeType, id: str = "wh_1") -> str:
    """Its secret."""
    return registry.webhooks.add(ADMIN, id, url, types or None)[1]


def types(registry: Registry) -> list[str]:
    return [notice.type.value for notice in registry.webhooks.notices(ADMIN)]


def budget(registry: Registry, ucr: int, is_hard: bool = False, period: Period = Period.DAY) -> None:
    wanted = Budget(kind=BudgetKind.USER, name="admin", granted_ucr=ucr, period=period, is_hard=is_hard)
    registry.budgets.set(ADMIN, wanted)
