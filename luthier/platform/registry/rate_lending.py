"""One renewal of rate limits: parts of minutes are leased in memory, over rows that are locked, and written at once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from luthier.platform.credits import MUCH, new_total
from luthier.platform.rates import RateGrant, RateName, RateWant
from luthier.platform.store import Row, Store, fetch

Part = tuple[RateName, int]
"""A limit, and a minute."""
KEY = (*RateName._fields, "minute", "holder")


class RateLending:
    """To a holder, in these minutes."""

    def __init__(self, store: Store, tx: sa.Connection, holder: str, minutes: tuple[int, int]) -> None:
        self._store, self._tx, self._holder, self._minutes = store, tx, holder, minutes
        self._leases = store.table("rate_leases")

    def lend(self, wants: Sequence[RateWant], allowed: Mapping[RateName, int]) -> list[RateGrant]:
        """`allowed` are those of the limits that there are."""
        held = self._held({(want.name, want.minute) for want in wants if want.name in allowed})
        known = {part for part, holders in held.items() if self._holder in holders}
        changed: dict[Part, Row] = {}
        grants = []
        for want in wants:
            if want.minute not in self._minutes:
                grants.append(RateGrant(total=None, left=0))
            elif want.name not in allowed:  # it is no limit any more
                grants.append(RateGrant(total=want.total, left=MUCH))
            else:
                part = want.name, want.minute
                grant = self._grant(want, allowed[want.name], held[part])
                changed[part] = held[part][self._holder]
                grants.append(grant)
        self._write([row for part, row in changed.items() if part in known], is_new=False)
        self._write([row for part, row in changed.items() if part not in known], is_new=True)
        return grants

    def _grant(self, want: RateWant, allowed: int, holders: dict[str, Row]) -> RateGrant:
        left = max(0, allowed - sum(row["amount"] for row in holders.values()))
        whose = {**want.name._asdict(), "minute": want.minute, "holder": self._holder}
        lease = holders.setdefault(self._holder, {**whose, "turn": 0, "amount": 0})
        amount = lease["amount"]
        if want.turn > lease["turn"]:
            lease |= {"turn": want.turn, "amount": new_total((want.total, want.need), amount, 0, left)}
        return RateGrant(total=lease["amount"], left=max(0, left - (lease["amount"] - amount)))

    def _held(self, parts: set[Part]) -> dict[Part, dict[str, Row]]:
        """By holders."""
        found: dict[Part, dict[str, Row]] = defaultdict(dict)
        if parts:
            given = self._given([{**name._asdict(), "minute": minute} for name, minute in parts])
            for row in fetch(self._tx, sa.select(self._leases).join(given, self._is(given))):
                name = RateName(*(row[field] for field in RateName._fields))
                found[name, row["minute"]][row["holder"]] = row
        return found

    def _write(self, rows: Sequence[Row], is_new: bool) -> None:
        if rows and is_new:
            self._tx.execute(sa.insert(self._leases), rows)
        elif rows:
            given = self._given(rows)
            values = {"turn": given.c.turn, "amount": given.c.amount}
            self._tx.execute(sa.update(self._leases).where(self._is(given)).values(**values))

    def _given(self, rows: Sequence[Row]) -> sa.FromClause:
        return self._store.given("rate_leases", rows)

    def _is(self, given: sa.FromClause) -> sa.ColumnElement[bool]:
        """By as much of the key as is given."""
        return sa.and_(*(self._leases.c[name] == given.c[name] for name in KEY if name in given.c))
