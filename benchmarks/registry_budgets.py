"""Of the registry's benchmark: an account with a balance and as many budgets of keys, all of them in use at once."""

from collections.abc import Sequence

from luthier.platform.access import ADMIN_ROLE, ADMIN_USER, Caller
from luthier.platform.credits import ACCOUNT, Budget, BudgetKind, Want, budget_scope
from luthier.platform.keys import NewKey
from luthier.platform.metering import UsageRecord
from luthier.platform.registry.registry import Registry

ADMIN = Caller(account="limited", user=ADMIN_USER, role=ADMIN_ROLE)
NUM_BUDGETS = 1_000
MUCH, LEASE = 2**50, 1_000_000
"""Of the balance and each budget, and the smaller of the two sizes that a lease has in turn."""
HOLDER = "replica"
RENEW, INGEST = "renew leases under budgets", "ingest under budgets"


class Budgeted:
    """A replica with a lease of each: none of its asks is the same as the one before."""

    def __init__(self, registry: Registry, platform: Caller) -> None:
        self._registry, self._turn = registry, 0
        self._callers = [ADMIN.model_copy(update={"key": f"key_{number}"}) for number in range(NUM_BUDGETS)]
        registry.access.add_admin_key(ADMIN.account, f"hash of {ADMIN.account}", "lt_ben")
        registry.credits.top_up(platform, ADMIN.account, MUCH, "first")
        for caller in self._callers:
            key = str(caller.key)
            registry.keys.create(ADMIN, NewKey(id=key, hash=f"hash of {key}", prefix="lt_ben"))
            registry.budgets.set(ADMIN, Budget(kind=BudgetKind.KEY, name=key, granted_ucr=MUCH))
        self._scopes = [ACCOUNT, *(budget_scope(BudgetKind.KEY, str(caller.key)) for caller in self._callers)]
        self.renew()

    def renew(self) -> None:
        """All callers are looked up, and half of the leases are made larger or smaller."""
        self._turn += 1
        wants = [self._want(number, scope) for number, scope in enumerate(self._scopes)]
        answer = self._registry.credits.renew(HOLDER, self._callers, wants)
        assert [grant.total_ucr for grant in answer.leases] == [want.total_ucr for want in wants]
        assert {len(scopes) for scopes in answer.limits} == {2}

    def batch(self, records: Sequence[UsageRecord]) -> list[UsageRecord]:
        """These, each of another key, as long as there are some."""
        whose = [number % NUM_BUDGETS for number in range(len(records))]
        given = [{**self._callers[number].model_dump(), "leases": (_lease(0), _lease(number + 1))} for number in whose]
        return [record.model_copy(update=each) for record, each in zip(records, given, strict=True)]

    def _want(self, number: int, scope: str) -> Want:
        total = LEASE * (1 + (number + self._turn) % 2) if scope else LEASE * NUM_BUDGETS
        whose = {"id": _lease(number), "account": ADMIN.account, "scope": scope}
        return Want(**whose, turn=self._turn, total_ucr=total, need_ucr=total)


def _lease(number: int) -> str:
    return f"lease_{number}"
