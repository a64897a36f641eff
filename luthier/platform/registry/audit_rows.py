"""Rows of the audit: written at the end of a chain, inside the transaction of what they tell of. No verbs."""

from collections import defaultdict

import sqlalchemy as sa

from luthier.platform.audit import START, Anchor, Entry, hash_row
from luthier.platform.store import Store, fetch_first


class AuditRows:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.audit, self._heads = store.table("audit"), store.table("audit_heads")

    def add(self, tx: sa.Connection, entries: list[Entry]) -> int:
        """What is new, each at the end of its account's chain; how many that were."""
        by_account: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_account[entry.account].append(entry)
        return sum(self._add(tx, account, some) for account, some in by_account.items())

    def head(self, tx: sa.Connection, account: str) -> Anchor:
        query = sa.select(self._heads).where(self._heads.c.account == account).with_for_update()
        row = fetch_first(tx, query)
        return Anchor(count=row["count"], hash=row["hash"]) if row else Anchor(count=0, hash=START)

    def _add(self, tx: sa.Connection, account: str, entries: list[Entry]) -> int:
        """Begins by writing, so that no other transaction reads the same end of the chain."""
        columns, ids = self.audit.c, [entry.id for entry in entries]
        self._store.insert_missing(tx, "audit_heads", [{"account": account, "count": 0, "hash": START}])
        head = self.head(tx, account)
        known = set(tx.execute(sa.select(columns.id).where(columns.id.in_(ids))).scalars())
        count, last, rows = head.count, head.hash, []
        for entry in {entry.id: entry for entry in entries if entry.id not in known}.values():
            count, last = count + 1, hash_row(last, count + 1, entry)
            rows.append({**entry.model_dump(), "number": count, "hash": last})
        if rows:
            tx.execute(sa.insert(self.audit), rows)
            tx.execute(sa.update(self._heads).where(self._heads.c.account == account).values(count=count, hash=last))
        return len(rows)
