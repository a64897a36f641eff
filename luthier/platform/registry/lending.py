"""One renewal: leases made larger and smaller in memory, over rows that are locked, and written all at once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from luthier.platform.credits import MUCH, Granted, Place, Want, new_total
from luthier.platform.registry.limits import Limits, available, place_of, reservation
from luthier.platform.store import Row

Name = tuple[str, str]
"""Of a lease: its id, and the scope of its limit."""


class Lending:
    """To a holder, until a time, of limits that were found in the same transaction."""

    def __init__(self, tx: sa.Connection, limits: Limits, found: Mapping[Place, Row], holder: str, until: int) -> None:
        self._tx, self._limits, self._found = tx, limits, found
        self._holder, self._until = holder, until
        self._leases: dict[Name, Row] = {}
        self._before: dict[Name, int] = {}
        """What those that have changed came to."""

    def lend(self, wants: Sequence[Want]) -> list[Granted]:
        rows = self._limits.reservations(self._tx, [want.id for want in wants])
        self._leases = {_name(row): row for row in rows}
        known = set(self._leases)
        for want in wants:
            self._ask(want)
        self._move()
        changed = [self._leases[name] for name in self._before]
        self._limits.insert(self._tx, [row for row in changed if _name(row) not in known])
        self._limits.change(self._tx, [row for row in changed if _name(row) in known])
        return [self._granted(want) for want in wants]

    def _ask(self, want: Want) -> None:
        """Without a limit, or of a lease that was there and is over, nothing is done."""
        limit, name = self._found.get((want.account, want.scope)), (want.id, want.scope)
        if limit and want.turn <= 1 and name not in self._leases:
            self._leases[name] = reservation(place_of(limit), want.id, self._holder, until=self._until)
        lease = self._leases.get(name)
        if limit is None or lease is None:
            return
        if want.has_refused and limit["is_hard"]:
            self._limits.notices.refused(self._tx, limit)
        if want.turn > lease["turn"]:
            amount = lease["amount_ucr"]
            total = new_total((want.total_ucr, want.need_ucr), amount, lease["spent_ucr"], available(limit))
            self._before.setdefault(name, amount)
            limit["reserved_ucr"] += total - amount
            lease |= {"amount_ucr": total, "turn": want.turn, "until": self._until}

    def _move(self) -> None:
        """In the limits. Where another writer was quicker, no lease grows."""
        more = {place: ucr for place, ucr in self._moved().items() if ucr > 0}
        missed = more.keys() - self._limits.take_all(self._tx, more)
        for name, amount in self._before.items():
            lease = self._leases[name]
            if place_of(lease) in missed:
                lease["amount_ucr"] = min(lease["amount_ucr"], amount)
        less = {place: {"reserved_ucr": ucr} for place, ucr in self._moved().items() if ucr < 0}
        self._limits.add_all(self._tx, less)

    def _moved(self) -> dict[Place, int]:
        moved: dict[Place, int] = defaultdict(int)
        for name, amount in self._before.items():
            moved[place_of(self._leases[name])] += self._leases[name]["amount_ucr"] - amount
        return moved

    def _granted(self, want: Want) -> Granted:
        limit, lease = self._found.get((want.account, want.scope)), self._leases.get((want.id, want.scope))
        if limit is None:
            return Granted(total_ucr=want.total_ucr, left_ucr=MUCH)  # it is no limit any more
        if lease is None:
            return Granted(total_ucr=None, left_ucr=0)
        return Granted(total_ucr=lease["amount_ucr"], left_ucr=available(limit))


def _name(lease: Row) -> Name:
    return lease["id"], lease["scope"]
