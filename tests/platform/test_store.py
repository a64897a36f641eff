"""The store: migrations up and down with rows in it, and transactions that hold whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from luthier.errors import Conflict
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import MIGRATIONS, Store, upgrade
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_record
from tests.fakes import Launcher
from tests.forging import set_revision

pytestmark = pytest.mark.stores

TABLES = {"accounts", "users", "dropped_users", "roles", "keys", "tables", "jobs", "events", "models"}
TABLES |= {"usage", "places", "views", "limits", "topups", "reservations", "job_counts", "storage_spans", "usage_hours"}
TABLES |= {"versions", "proofs", "rate_limits", "rate_leases", "webhooks", "notices", "deliveries"}
TABLES |= {"aliases", "model_changes", "dropped", "files", "batches", "role_grants", "grants", "parameters"}
TABLES |= {"shares", "share_accounts", "share_grants", "imported_databases", "region_base_models"}
TABLES |= {"audit", "audit_heads", "aliases", "model_changes", "dropped", "files", "batches"}


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
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert names(engine) == {"alembic_version"}
    upgrade(engine)
    assert names(engine) >= TABLES
    engine.dispose()
    again = Registry(settings, launcher)
    assert again.jobs.show(ADMIN) == []
    add_admin(again)
    assert again.jobs.submit(make_job()).id == "ft_1"


@pytest.mark.parametrize(("revision", "told"), [("0048", "Begin with an empty home"), ("9999", "or a later one")])
def test_a_store_of_another_revision_is_left_alone(settings: Settings, revision: str, told: str) -> None:
    store = Store(settings.store_url)
    set_revision(store, revision)
    with pytest.raises(Conflict, match=f"is at revision {revision}.*{told}"):
        Registry(settings, Launcher())
    assert store.rows(sa.select(store.table("alembic_version"))) == [{"version_num": revision}]
    store.engine.dispose()


def test_numbers_of_versions_stay_unique(registry: Registry, settings: Settings) -> None:
    store = Store(settings.store_url)
    for job_id in ("ft_1", "ft_2"):
        registry.jobs.submit(make_job(job_id))
        registry.jobs.tick()
        registry.jobs.finish(job_id, make_finished())
        (number,) = [row["number"] for row in store.rows(sa.select(store.table("versions")))]
        assert number == int(job_id[-1])
        with store.transaction() as tx:
            tx.execute(sa.delete(store.table("models")))
    store.engine.dispose()


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


def test_rows_are_given_as_they_are(settings: Settings) -> None:
    rows = [
        {"scope": 'key:"a"', "granted_ucr": 2**62, "passed_on": None},
        {"scope": "role:\u00e9 \\ $.x'", "granted_ucr": -1, "passed_on": 5},
    ]
    store = Store(settings.store_url)
    assert store.rows(sa.select(*store.given("limits", rows).c)) == rows
    store.engine.dispose()


def test_numbers_go_on_beyond_32_bits(registry: Registry, settings: Settings) -> None:
    store = Store(settings.store_url)
    if store.engine.dialect.name == "postgresql":
        _count_on(store, 2**31)
    registry.ledger.append([make_record()])
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished())
    for name, column in (("usage", "id"), ("events", "id"), ("models", "id"), ("versions", "number")):
        least = min(row[column] for row in store.rows(sa.select(store.table(name))))
        assert least >= (2**31 if store.engine.dialect.name == "postgresql" else 1)
    store.engine.dispose()


def _count_on(store: Store, number: int) -> None:
    """Each sequence, from there."""
    with store.transaction() as tx:
        names = tx.execute(sa.text("SELECT sequencename FROM pg_sequences")).scalars().all()
        assert len(names) > 10
        for name in names:
            tx.execute(sa.text(f"ALTER SEQUENCE {name} RESTART WITH {number}"))


def test_what_counts_up_and_what_points_at_it_have_64_bits(settings: Settings) -> None:
    store = Store(settings.store_url)
    if store.engine.dialect.name == "postgresql":
        tables = store.tables.tables.values()
        small = {f"{each.table.name}.{each.name}" for table in tables for each in table.c if _is_small(each)}
        assert small == set()
    store.engine.dispose()


def _is_small(column: sa.Column[Any]) -> bool:
    counts = column.primary_key and column.server_default is not None
    return type(column.type) is sa.INTEGER and bool(counts or column.foreign_keys or column.name == "share_id")
