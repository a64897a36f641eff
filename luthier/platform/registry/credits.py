"""Verbs on balances: top up, see, and the leases of replicas."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from luthier.errors import Conflict, NotFound
from luthier.platform.access import Caller
from luthier.platform.credits import (
    ACCOUNT,
    GRACE_MS,
    LEASE_MS,
    MOST_GRANTED,
    RETURN_MS,
    Balance,
    Renewal,
    TopUp,
    Want,
    places_of,
)
from luthier.platform.prices import to_credits
from luthier.platform.privileges import Action
from luthier.platform.registry.guard import Guard
from luthier.platform.registry.lending import Lending
from luthier.platform.registry.limits import Limits
from luthier.platform.registry.paging import MAX_SHOWN, numbered_page
from luthier.platform.securables import PLATFORM
from luthier.platform.store import Store, exists, fetch, fetch_first


class Credits:
    def __init__(self, store: Store, guard: Guard, clock: Callable[[], int]) -> None:
        """Admins of the platform's account give credits to all."""
        self._store, self._guard, self._clock = store, guard, clock
        self._limits = Limits(store, clock)
        self._accounts, self._topups = store.table("accounts"), store.table("topups")

    # what people ask

    def top_up(self, caller: Caller, account: str, amount_ucr: int, key: str, note: str = "") -> TopUp:
        """Adds to a balance, once for each key; the first one limits the account."""
        asked = TopUp(
            account=account,
            key=key,
            amount_ucr=amount_ucr,
            note=note,
            by=f"{caller.account}.{caller.user}",
            time=self._clock(),
        )
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.OPERATE, PLATFORM)
            self._check_account(tx, account)
            if first := self._first_answer(tx, asked):
                return first
            self._limits.ensure(tx, account)
            self._check_room(tx, account, amount_ucr)
            self._limits.grant(tx, account, amount_ucr)
            tx.execute(sa.insert(self._topups).values(**asked.model_dump()))
        return asked

    def limit(self, caller: Caller, account: str) -> Balance:
        """The account spends no more than its balance from now on, be that nothing."""
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.OPERATE, PLATFORM)
            self._check_account(tx, account)
            self._limits.ensure(tx, account)
        return self.balance(caller, account)

    def balance(self, caller: Caller, account: str | None = None) -> Balance:
        """Of the caller's account; admins of the platform's may see any."""
        account = account or caller.account
        with self._store.transaction() as tx:
            self._check_sees(tx, caller, account)
            self._check_account(tx, account)
            self._limits.sweep(tx)
            row = self._limits.find(tx, account, ACCOUNT)
            if row is None:
                return Balance(account=account)
            held = sum(
                each["amount_ucr"] - each["spent_ucr"]
                for each in self._limits.reserved(tx, account, ACCOUNT)
                if each["until"] is None
            )
        sums = {name: row[name] for name in ("granted_ucr", "spent_ucr", "overrun_ucr", "alert_ucr")}
        leased = row["reserved_ucr"] - held
        return Balance(account=account, is_limited=True, held_ucr=held, leased_ucr=leased, **sums)

    def alert(self, caller: Caller, ucr: int | None) -> Balance:
        """Less than this left is told to the account's webhooks, once for each top-up; None: nothing is."""
        with self._guard.change(caller) as tx:
            self._guard.check(tx, caller, Action.ADMINISTER)
            row = self._limits.find(tx, caller.account, ACCOUNT)
            if row is None:
                raise Conflict("The account has no balance that could run low: it has no limit.")
            if row["alert_ucr"] != ucr:
                self._limits.update(tx, caller.account, ACCOUNT, alert_ucr=ucr, low_on=None)
        return self.balance(caller)

    def topups(
        self, caller: Caller, account: str | None = None, limit: int = MAX_SHOWN, after: str | None = None
    ) -> list[TopUp]:
        """Newest first, from behind the one of a key."""
        account, columns = account or caller.account, self._topups.c
        its = sa.select(self._topups).where(columns.account == account)
        with self._store.reading() as tx:
            self._check_sees(tx, caller, account)
            page = numbered_page(tx, its, columns.number, columns.key, limit, after)
            return [TopUp.from_row(row) for row in fetch(tx, page)]

    # what replicas ask

    def renew(self, holder: str, callers: Sequence[Caller], wants: Sequence[Want], grace_ms: int = GRACE_MS) -> Renewal:
        """What limits callers, and leases made longer, larger or smaller; or new ones.

        A lease that is not renewed is kept for the time of grace beyond its end: its usage may be on its way.
        """
        with self._store.transaction() as tx:
            self._limits.sweep(tx)
            own = [places_of(caller) for caller in callers]
            found = self._limits.find_all(tx, {(want.account, want.scope) for want in wants}.union(*own))
            until = self._clock() + LEASE_MS + grace_ms
            leases = Lending(tx, self._limits, found, holder, until).lend(wants)
        hard = {place for place, limit in found.items() if limit["is_hard"]}
        limits = [tuple(scope for account, scope in places if (account, scope) in hard) for places in own]
        return Renewal(limits=limits, leases=leases)

    def end_holder(self, holder: str) -> int:
        """The holder is dead and all usage that it told of is in the ledger: its leases come back. How many."""
        with self._store.transaction() as tx:
            return self._limits.release_of(tx, holder)

    def keep_leases(self) -> None:
        """Of replicas that could not tell their usage while there was no registry: nobody else gets them before."""
        with self._store.transaction() as tx:
            self._limits.keep(tx, self._clock() + RETURN_MS)

    # who may, and what is there

    def _check_sees(self, tx: sa.Connection, caller: Caller, account: str) -> None:
        if account == caller.account:
            self._guard.check(tx, caller, Action.SEE_BALANCE)
        else:
            self._guard.check(tx, caller, Action.OPERATE, PLATFORM)

    def _check_account(self, tx: sa.Connection, account: str) -> None:
        if not exists(tx, self._accounts.c.name == account):
            raise NotFound(f"There is no account {account!r}.")

    def _check_room(self, tx: sa.Connection, account: str, more_ucr: int) -> None:
        limit = self._limits.find(tx, account, ACCOUNT)
        assert limit
        if limit["granted_ucr"] + more_ucr > MOST_GRANTED:
            most = f"{to_credits(MOST_GRANTED):f}"
            raise Conflict(f"Account {account} would have been given more than {most} credits in all.")

    def _first_answer(self, tx: sa.Connection, asked: TopUp) -> TopUp | None:
        columns = self._topups.c
        same = sa.select(self._topups).where(columns.account == asked.account, columns.key == asked.key)
        row = fetch_first(tx, same)
        if row is None:
            return None
        first = TopUp.from_row(row)
        if (first.amount_ucr, first.note) != (asked.amount_ucr, asked.note):
            raise Conflict(f"Idempotency-Key {asked.key!r} was used for another top-up; send a new one.")
        return first
