"""What nobody but who has the store in his hands can do: rows are changed that are there for good."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from luthier.platform.store import Store

FOR_GOOD = ("audit", "usage")
TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = '{table}'"


@contextmanager
def forging(tx: sa.Connection, *tables: str) -> Iterator[None]:
    """Without the triggers that keep the tables as they are."""
    if tx.dialect.name == "postgresql":
        for table in tables:
            tx.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        for table in tables:
            tx.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        return
    triggers = [row for table in tables for row in tx.exec_driver_sql(TRIGGERS.format(table=table))]
    for trigger in triggers:
        tx.exec_driver_sql(f"DROP TRIGGER {trigger.name}")
    yield
    for trigger in triggers:
        tx.exec_driver_sql(trigger.sql)


def empty(store: Store) -> None:
    """As it is after its migrations; they take longer than what a state machine does in one run."""
    with store.transaction() as tx, forging(tx, *FOR_GOOD):
        for table in reversed(store.tables.sorted_tables):
            if table.name != "alembic_version":
                tx.execute(sa.delete(table))


def set_revision(store: Store, revision: str) -> None:
    """As if another Luthier had written it."""
    with store.transaction() as tx:
        tx.execute(sa.update(store.table("alembic_version")).values(version_num=revision))
