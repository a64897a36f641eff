"""What new records of the ledger spend, of what limits their accounts: in the transaction that writes them."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from luthier.platform.credits import Place, places_of
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.limits import Limits, available, place_of
from luthier.platform.store import Row

log = logging.getLogger(__name__)


class Spending:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def limiting(self, tx: sa.Connection, records: Sequence[UsageRecord]) -> dict[Place, Row]:
        """What records spend of. To be asked before they are written, as a period may begin with them."""
        return self._limits.find_all(tx, {place for record in records for place in places_of(record)})

    def draw(self, tx: sa.Connection, limits: Mapping[Place, Row], records: Sequence[UsageRecord]) -> None:
        """New usage is spent: of the reservations that it names, storage of what is available, all else as an overrun.

        It is never refused.
        """
        owed, reserved = _by_place(records), self._reserved(tx, records)
        paid = {place: _payments(owed[place], reserved[place]) for place in limits}
        self._limits.pay_all(tx, [(place, id, ucr) for place, its in paid.items() for id, ucr in its.items()])
        stored = _by_place([record for record in records if record.kind is UsageKind.STORAGE])
        sums = {}
        for place, limit in limits.items():
            spent = sum([record.amount_ucr for record in owed[place]])
            covered = sum(paid[place].values()) + self._reserve_storage(tx, limit, stored[place])
            sums[place] = {"spent_ucr": spent, "reserved_ucr": -covered, "overrun_ucr": spent - covered}
            if limit["is_hard"] and spent > covered:
                log.warning("%s %s: nothing covered %d ucr", *place, spent - covered)
            self._limits.notices.spent(tx, {**limit, "spent_ucr": limit["spent_ucr"] + spent})
        self._limits.add_all(tx, sums)

    def _reserved(self, tx: sa.Connection, records: Sequence[UsageRecord]) -> dict[Place, list[Row]]:
        found = defaultdict(list)
        for row in self._limits.reservations(tx, {id for record in records for id in record.leases}):
            found[place_of(row)].append(row)
        return found

    def _reserve_storage(self, tx: sa.Connection, limit: Row, records: Sequence[UsageRecord]) -> int:
        """For what nobody reserved before it was there: as much as is available. How much."""
        ucr = min(sum(record.amount_ucr for record in records), available(limit))
        return ucr if ucr and self._limits.take_all(tx, {place_of(limit): ucr}) else 0


def _by_place(records: Sequence[UsageRecord]) -> dict[Place, list[UsageRecord]]:
    found = defaultdict(list)
    for record in records:
        for place in places_of(record):
            found[place].append(record)
    return found


def _payments(records: Sequence[UsageRecord], reservations: Sequence[Row]) -> dict[str, int]:
    """What each reservation pays of the records that name it: each micro-credit once, and no more than it has."""
    left = {row["id"]: row["amount_ucr"] - row["spent_ucr"] for row in reservations}
    paid: dict[str, int] = defaultdict(int)
    for record in records:
        owed = record.amount_ucr
        for id in record.leases:
            ucr = min(owed, left.get(id, 0))
            if ucr:
                owed, left[id], paid[id] = owed - ucr, left[id] - ucr, paid[id] + ucr
    return paid
