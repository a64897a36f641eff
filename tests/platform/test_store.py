"""The store: migrations up and down with rows in it, and transactions that hold whole or not at all."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store, downgrade, upgrade
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_record
from tests.fakes import Launcher

TABLES = {"accounts", "users", "roles", "keys", "tables", "jobs", "events", "models", "versions", "usage"}


def names(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def test_down_and_up_again_with_rows(settings: Settings) -> None:
    launcher = Launcher()
    registry = Registry(settings, launcher)
    add_admin(registry)
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished())
    registry.ledger.append([make_record()])
    engine = sa.create_engine(settings.store_url)
    assert names(engine) >= TABLES
    downgrade(engine, "base")
    assert names(engine) == {"alembic_version"}
    upgrade(engine)
    assert names(engine) >= TABLES
    engine.dispose()
    again = Registry(settings, launcher)
    assert again.jobs.show(ADMIN) == []
    add_admin(again)
    assert again.jobs.submit(make_job()).id == "ft_1"


def test_a_second_start_finds_everything(settings: Settings, registry: Registry, launcher: Launcher) -> None:
    registry.jobs.submit(make_job())
    registry.ledger.append([make_record()])
    again = Registry(settings, launcher)
    assert again.jobs.show(ADMIN) == registry.jobs.show(ADMIN)
    assert again.ledger.append([make_record()]) == 0


def test_the_schema_is_that_of_the_migrations(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")
    assert set(store.tables.tables) == TABLES | {"alembic_version"}
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")

    def fail_halfway() -> None:
        with store.transaction() as tx:
            store.insert_missing(tx, "accounts", [{"name": "a", "created_on": 1}])
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert store.rows(sa.select(store.table("accounts"))) == []


def test_only_missing_rows_are_inserted(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")
    rows = [{"name": name, "created_on": 1} for name in ("a", "b", "a")]
    with store.transaction() as tx:
        assert store.insert_missing(tx, "accounts", []) == 0
        assert store.insert_missing(tx, "accounts", rows) == 2
        assert store.insert_missing(tx, "accounts", rows) == 0


def test_foreign_keys_hold(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(sa.exc.IntegrityError), store.transaction() as tx:
        tx.execute(sa.insert(store.table("users")).values(account="nobody", name="u", created_on=1))
