"""Who may spend how much: limits, what is reserved of them, top-ups. Pure; amounts are micro-credits.

A limit is an account's balance (scope ""), or a budget of one of its roles, users or keys; without, nothing is limited.
For each limit at every moment: spent + reserved <= granted + overrun. An overrun is what came to the ledger without
a reservation that covered it; only a reservation makes new spending possible. Storage reserves when it is billed.
"""

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from pydantic import Field

from luthier.errors import PaymentRequired
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.prices import to_credits
from luthier.platform.privileges import Action

ACCOUNT = ""
"""The scope of an account's balance."""
LEASE_MS = 30_000
"""So long a replica may spend under a lease that it does not renew."""
ALONE_SECONDS = 25.0
"""So long, by its own clock, a process goes on without the registry: it spends under its leases, and lets in whom it
knows. Less than LEASE_MS, as clocks differ and a request takes its time."""
GRACE_MS = 3_600_000
"""So long after its end a lease is kept for usage on its way, unless its holder's heir says that none is."""
BATCH_GRACE_MS = 300_000
"""The same of a process that works on batches: another has taken them over, and billed what it found, long before."""
RETURN_MS = 300_000
"""So long leases are kept at the least after the registry's start, whenever they ended: usage waited for it."""
SHARE = 4
"""Beyond what is needed at once, a lease takes no more than this part of what is available: others want some too."""
MUCH = 2**62
"""Left where nothing is limited any more."""
MOST_GRANTED = 2**61
"""Of an account, in all: what is added to it stays an integer of the store's."""
MAX_BUDGETS = 1_000
"""Of an account. A renewal takes as long as there are budgets in use, and all accounts wait for it."""

Place = tuple[str, str]
"""Where a limit stands: account and scope."""


class Period(StrEnum):
    """In which a budget is spent; then it begins anew (UTC)."""

    NONE = "none"
    DAY = "day"
    MONTH = "month"


class Balance(Frozen):
    """What an account has; of one without limits nothing but that is told."""

    account: str
    is_limited: bool = False
    granted_ucr: int = 0
    spent_ucr: int = 0
    held_ucr: int = 0
    """For jobs that wait or run."""
    leased_ucr: int = 0
    """In the hands of replicas, for completions."""
    overrun_ucr: int = 0
    """Of the spent, what was not reserved: let in before the limit was known, told very late, or storage that was more
    than what was available."""
    alert_ucr: int | None = None
    """Less than this left is told to the account's webhooks."""

    @property
    def available_ucr(self) -> int:
        return max(0, self.granted_ucr - self.spent_ucr - self.held_ucr - self.leased_ucr)


class BudgetKind(StrEnum):
    """Whose a budget is."""

    ROLE = "role"
    USER = "user"
    KEY = "key"


class Budget(Frozen):
    """What one role, user or key of an account may spend in a period, within the account's balance."""

    kind: BudgetKind
    name: str
    granted_ucr: int
    spent_ucr: int = 0
    """In the present period, since the budget was made."""
    reserved_ucr: int = 0
    period: Period = Period.NONE
    is_hard: bool = True
    """What would pass it is refused; a soft one only says when it was passed."""
    passed_on: int | None = None
    """When a soft one was passed in this period."""


class TopUp(Frozen):
    account: str
    key: str
    """The Idempotency-Key: the same again adds nothing."""
    amount_ucr: int = Field(gt=0, lt=2**60)
    note: str = ""
    by: str
    """ACCOUNT.USER"""
    time: int


class Want(Frozen):
    """What a holder asks for a lease; asked twice, or late, it changes nothing twice."""

    id: str
    account: str
    scope: str = ACCOUNT
    turn: int
    """Rises with each ask for this lease: one that arrives after a later one is answered and not done."""
    total_ucr: int
    """What the lease is to be in all, spent included. Below what it was: the holder has let go of the rest already."""
    need_ucr: int
    """Of the total, what somebody waits for."""
    has_refused: bool = False
    """Since the holder asked last, somebody was refused for want of it."""


class Granted(Frozen):
    total_ucr: int | None
    """None: the lease is over, and nothing may be spent under it."""
    left_ucr: int
    """What is available beside it."""


class Renewal(Frozen):
    """The answer to a holder: of each caller the scopes that limit him, of each lease what it is now."""

    limits: list[tuple[str, ...]]
    leases: list[Granted]


def places_of(spender: Caller | UsageRecord) -> tuple[Place, ...]:
    """Of the limits that there can be for a caller, or for what he used. Storage is the account's alone."""
    if isinstance(spender, UsageRecord) and spender.kind is UsageKind.STORAGE:
        return ((spender.account, ACCOUNT),)
    return _places(spender.account, spender.role, spender.user, spender.key)


@lru_cache(maxsize=10_000)
def _places(account: str, role: str, user: str, key: str | None) -> tuple[Place, ...]:
    owners = (BudgetKind.ROLE, role), (BudgetKind.USER, user), (BudgetKind.KEY, key)
    scopes = [budget_scope(kind, name) for kind, name in owners if name]
    return tuple((account, scope) for scope in (ACCOUNT, *scopes))


def budget_scope(kind: BudgetKind, name: str) -> str:
    return f"{kind}:{name}"


def new_total(wanted: tuple[int, int], amount: int, spent: int, available: int) -> int:
    """What a lease of an amount becomes, of which this total is wanted, and this much needed at once."""
    total, need = wanted
    if total <= amount:
        return max(total, spent)
    most = max(need - amount, available // SHARE)
    return amount + max(0, min(total - amount, most, available))


def period_start(period: Period, now_ms: int) -> int:
    """When the period began that `now` is in; 0 for the one that never ends."""
    if period is Period.NONE:
        return 0
    day = datetime.fromtimestamp(now_ms / 1000, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = day.replace(day=1) if period is Period.MONTH else day
    return int(first.timestamp()) * 1000


class Shortage(NamedTuple):
    """A limit has less than what is needed of it."""

    scope: str
    needed_ucr: int
    available_ucr: int
    reserved_ucr: int

    @property
    def is_told_to(self) -> Action:
        """What who may hear its numbers is able to do."""
        return Action.ADMINISTER if self.scope else Action.SEE_BALANCE

    def refusal(self, is_told: bool) -> PaymentRequired:
        """Names what is needed, and what there is to who may see that."""
        whose = f"The budget of {self.scope.replace(':', ' ')}" if self.scope else "The account's balance"
        todo = "Raise it (`luthier credits budgets set`)" if self.scope else "Top it up (`luthier credits topup`)"
        running = f", beside {to_credits(self.reserved_ucr):f} reserved by running work" if self.reserved_ucr else ""
        there_is = f"has {to_credits(self.available_ucr):f} credits available{running}" if is_told else "has too little"
        return PaymentRequired(
            f"{whose} {there_is}; this may cost {to_credits(self.needed_ucr):f}. {todo}, or ask for less (max_tokens, "
            "fewer rows)."
        )
