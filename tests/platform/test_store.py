"""The store: migrations up and down with rows in it, and transactions that hold whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luthier.errors import Conflict
from luthier.platform import securables
from luthier.platform.access import Caller, hash_key
from luthier.platform.credits import GRACE_MS, Want
from luthier.platform.jobs import JobStatus, now_ms
from luthier.platform.keys import NewKey, Scope
from luthier.platform.metering import UsageKind
from luthier.platform.rates import RateLimit
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import Granted, ObjectKind, Privilege, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store, downgrade, upgrade
from tests.factories import ADMIN, KEY, add_admin, make_finished, make_job, make_record
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

TABLES = {"accounts", "users", "dropped_users", "roles", "keys", "tables", "jobs", "events", "models"}
TABLES |= {"usage", "places", "views", "limits", "topups", "reservations", "job_counts", "storage_spans", "usage_hours"}
TABLES |= {"versions", "proofs", "rate_limits", "rate_leases", "webhooks", "notices", "deliveries"}
TABLES |= {"aliases", "model_changes", "dropped", "files", "batches", "role_grants", "grants", "parameters"}
TABLES |= {"shares", "share_accounts", "share_grants", "imported_databases", "region_base_models"}
TABLES |= {"audit", "audit_heads", "aliases", "model_changes", "dropped", "files", "batches"}


MODEL = (
    "INSERT INTO models (id, account, database, schema, name, display, owner, role, created_on)"
    " VALUES (7, 'main', 'LUTHIER', 'PUBLIC', 'M', 'LUTHIER.PUBLIC.M', 'admin', 'ACCOUNTADMIN', 1)"
)
VERSION = (
    "INSERT INTO versions (model_id, version, job_id, base_model, path, sha256, rank, created_on)"
    " VALUES (7, 1, '{job_id}', 'tiny', 'p', 'ab', 8, 1)"
)
JOB = (
    "INSERT INTO jobs (id, account, owner, role, model, base_model, training_data, validation_data, options, report,"
    " status, attempt, progress, created_on) VALUES ('ft_1', 'main', 'admin', 'ACCOUNTADMIN', 'LUTHIER.PUBLIC.M',"
    " 'tiny', 'SELECT 1', '', '{}', '{}', 'SUCCESS', 1, '{}', 1)"
)
ACCOUNT = "INSERT INTO accounts (name, created_on) VALUES ('main', 1)"


def fill(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """A job with its model, as the first migration has them; all rows."""
    with engine.begin() as tx:
        for statement in (ACCOUNT, JOB, MODEL, VERSION.format(job_id="ft_1")):
            tx.exec_driver_sql(statement)
    return rows(engine)


def rows(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    with engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}")).mappings()]
            for name in ("accounts", "jobs", "models", "versions")
        }


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


def test_rows_of_0001_live_through_all_migrations_and_back(settings: Settings) -> None:
    engine = sa.create_engine(settings.store_url)
    upgrade(engine)
    downgrade(engine, "0001")
    before = fill(engine)
    upgrade(engine)
    after = rows(engine)
    (version,) = after["versions"]
    assert (version["task_type"], version["method"], version["parent"]) == ("CHAT_COMPLETION", "lora", None)
    assert [job["waits_for"] for job in after["jobs"]] == [0]
    (model,) = after["models"]
    assert (model["default_version"], model["last_version"], model["canary_version"]) == (1, 1, None)
    downgrade(engine, "0001")
    assert rows(engine) == before
    upgrade(engine)
    assert rows(engine) == after
    engine.dispose()


def test_access_comes_to_an_account_that_is_there_and_goes_again(settings: Settings) -> None:
    engine = sa.create_engine(settings.store_url)
    upgrade(engine)
    downgrade(engine, "0005")
    with engine.begin() as tx:
        tx.exec_driver_sql(ACCOUNT)
        for table, name in (("users", "admin"), ("roles", "ACCOUNTADMIN")):
            tx.exec_driver_sql(f"INSERT INTO {table} (account, name, created_on) VALUES ('main', '{name}', 1)")
        tx.exec_driver_sql(
            'INSERT INTO keys (hash, prefix, account, "user", role, created_on)'
            f" VALUES ('{hash_key(KEY)}', 'lt_', 'main', 'admin', 'ACCOUNTADMIN', 1)"
        )
    upgrade(engine)
    registry = Registry(settings, Launcher())
    assert registry.keys.authenticate(hash_key(KEY)).caller.identity == ADMIN.identity
    assert {role.name for role in registry.roles.show(ADMIN)} == {"ACCOUNTADMIN", "PUBLIC"}
    held = {(grant.privilege, grant.name) for grant in registry.grants.to_role(ADMIN, "PUBLIC")}
    assert held == {("USAGE", "SNOWFLAKE.CORTEX_USER"), ("USE AI FUNCTIONS", "")}
    registry.roles.create(ADMIN, "R")
    registry.roles.grant(ADMIN, "R", Securable(ObjectKind.USER, name="admin"))
    registry.keys.create(ADMIN, NewKey(id="key_1", hash="h", prefix="lt_", role="R"))
    downgrade(engine, "0005")
    with engine.connect() as tx:
        kept = tx.exec_driver_sql("SELECT role, revoked_on IS NULL FROM keys ORDER BY role").all()
        assert [tuple(row) for row in kept] == [("ACCOUNTADMIN", 1), ("R", 0)], "no key opens more than it did"
        assert [row[0] for row in tx.exec_driver_sql("SELECT name FROM roles ORDER BY name")] == ["ACCOUNTADMIN", "R"]
    upgrade(engine)
    assert Registry(settings, Launcher()).keys.authenticate(hash_key(KEY)).caller.identity == ADMIN.identity
    engine.dispose()


def test_numbers_of_versions_stay_unique_through_the_migrations(settings: Settings) -> None:
    engine = sa.create_engine(settings.store_url)
    upgrade(engine)
    downgrade(engine, "0001")
    fill(engine)
    with engine.begin() as tx:
        tx.execute(sa.text("DELETE FROM models"))
        tx.execute(sa.text("DELETE FROM versions"))
    for revision in ("head", "0001", "head"):
        (upgrade if revision == "head" else downgrade)(engine, revision)
    with engine.begin() as tx:
        tx.execute(sa.text(MODEL))
        tx.execute(sa.text(VERSION.format(job_id="ft_2")))
    assert rows(engine)["versions"][0]["number"] == 2
    engine.dispose()


def test_keys_and_usage_of_before_live_through_0009_and_back(settings: Settings) -> None:
    store = Store(settings.store_url)
    registry = Registry(settings, Launcher())
    add_admin(registry)
    registry.ledger.append([make_record(), make_record("req_2", key="key_x")])
    bounded = NewKey(id="key_b", hash="b", prefix="lt_b", scope=Scope(read_only=True))
    registry.keys.create(ADMIN, bounded)
    downgrade(store.engine, "0005")
    with store.engine.connect() as connection:
        states = dict(connection.execute(sa.text("SELECT prefix, revoked_on IS NULL FROM keys")).all())
        assert states == {KEY[:6]: 1, "lt_b": 0}, "a key that nothing would bound opens nothing"
    upgrade(store.engine)
    again = Registry(settings, Launcher())
    first, last = again.keys.show(ADMIN)
    assert {first.prefix, last.prefix} == {KEY[:6], "lt_b"}
    assert first.id != last.id
    assert again.keys.authenticate(hash_key(KEY)).scope.is_full
    assert [record.key for record in again.ledger.records(ADMIN, UsageKind.COMPLETION)] == [None, None]


def test_leases_of_before_are_kept_as_long_through_0021_and_back(settings: Settings) -> None:
    store = Store(settings.store_url)
    registry = Registry(settings, Launcher())
    add_admin(registry)
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    registry.jobs.submit(make_job(key="key_x"))
    registry.credits.renew("r1", [], [Want(id="l1", account="main", turn=1, total_ucr=10, need_ucr=10)])
    registry.rates.set(ADMIN, RateLimit(model="tiny", requests=5))
    until = "SELECT id, until FROM reservations WHERE id = 'l1'"
    with store.engine.connect() as connection:
        (before,) = connection.execute(sa.text(until)).all()
    downgrade(store.engine, "0009")
    assert not names(store.engine) & {"rate_limits", "rate_leases"}
    with store.engine.connect() as connection:
        assert connection.execute(sa.text(until)).all() == [("l1", before.until - GRACE_MS)]
    upgrade(store.engine)
    with store.engine.connect() as connection:
        assert connection.execute(sa.text(until)).all() == [before]
    again = Registry(settings, Launcher())
    assert again.rates.show(ADMIN) == []
    assert [job.key for job in again.jobs.show(ADMIN)] == [None]
    assert again.credits.balance(ADMIN).leased_ucr == 10


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


def test_usage_lives_through_the_bytes_of_storage_and_back(settings: Settings) -> None:
    registry = Registry(settings, Launcher())
    add_admin(registry)
    registry.ledger.append(
        [make_record("a"), make_record("main:1970-01-01", kind=UsageKind.STORAGE, stored_bytes=1 << 40)]
    )
    engine = sa.create_engine(settings.store_url)
    upgrade(engine)
    downgrade(engine, "0005")
    with engine.connect() as connection:
        kept = connection.execute(sa.text("SELECT source_id, amount_ucr FROM usage")).all()
    assert [tuple(row) for row in kept] == [("a", 1)]  # what 0005 has no column for is not there
    upgrade(engine)
    assert Registry(settings, Launcher()).ledger.records(ADMIN, UsageKind.COMPLETION) == [make_record("a")]
    engine.dispose()


@pytest.mark.parametrize(("is_billed", "is_replica"), [(True, False), (False, False), (True, True)])
def test_what_is_kept_already_is_kept_on(settings: Settings, is_billed: bool, is_replica: bool) -> None:
    """From when it was made; where no storage was ever billed, or it was made elsewhere, from now on."""
    made, now = 5_000, now_ms()
    registry = Registry(settings, Launcher(num_jobs=2), clock=lambda: made)
    add_admin(registry)
    for job_id in ("ft_1", "ft_2"):
        registry.jobs.submit(make_job(job_id, f"LUTHIER.PUBLIC.{job_id}"))
        registry.jobs.tick()
        registry.jobs.finish(job_id, make_finished())
    if is_billed:
        registry.ledger.append([make_record("main:1970-01-01", kind=UsageKind.STORAGE)])
    engine = sa.create_engine(settings.store_url)
    downgrade(engine, "0041")
    if is_replica:
        with engine.begin() as tx:
            tx.execute(sa.text("UPDATE models SET replica_of = 'west'"))
    upgrade(engine)
    with engine.connect() as connection:
        ((since, until),) = connection.execute(sa.text("SELECT since, until FROM storage_spans")).all()
    engine.dispose()
    assert (since == made if is_billed and not is_replica else since >= now, until) == (True, None)


def test_shares_and_what_was_granted_by_them_go_and_come(settings: Settings) -> None:
    registry = Registry(settings, Launcher())
    add_admin(registry)
    registry.access.add_admin_key("other", "h", "lt_")
    other = Caller(account="other", user="admin", role="ACCOUNTADMIN")
    registry.shares.create(other, "S")
    registry.shares.add_accounts(other, "S", ["main"])
    registry.shares.import_database(ADMIN, "X", "other", "S")
    registry.roles.create(ADMIN, "R")
    database = Securable(ObjectKind.DATABASE, "X")
    registry.grants.grant(ADMIN, Granted((Privilege.IMPORTED,), database), "R")
    wide = (Privilege.CREATE_SHARE, Privilege.CREATE_ROLE)
    registry.grants.grant(ADMIN, Granted(wide, securables.ACCOUNT), "R")
    engine = sa.create_engine(settings.store_url)
    downgrade(engine, "0009")
    with engine.connect() as connection:
        kept = connection.execute(sa.text("SELECT privilege FROM grants WHERE grantee = 'R'")).scalars().all()
    assert kept == ["CREATE ROLE"], "what nothing would know of is not there"
    upgrade(engine)
    engine.dispose()
    again = Registry(settings, Launcher())
    assert again.shares.show(ADMIN) == []
    assert again.shares.create(other, "S")


def test_jobs_are_named_and_counted_once_they_come_up(settings: Settings) -> None:
    registry = Registry(settings, Launcher())
    add_admin(registry)
    for name in ("a", "b"):
        registry.jobs.submit(make_job(f"ft_{name}", f"luthier.public.{name}"))
    registry.jobs.cancel(ADMIN, "ft_b")
    counted = registry.jobs.census(ADMIN)
    engine = sa.create_engine(settings.store_url)
    downgrade(engine, "0009")
    with engine.begin() as tx:
        tx.exec_driver_sql("UPDATE jobs SET attempt = 1")  # no trigger is left behind
    upgrade(engine)
    again = Registry(settings, Launcher())
    assert again.jobs.census(ADMIN) == counted
    with pytest.raises(Conflict, match="ft_a is making"):
        again.jobs.submit(make_job("ft_c", 'LUTHIER.PUBLIC."A"'))
    again.jobs.submit(make_job("ft_c", "luthier.public.b"))
    assert again.jobs.census(ADMIN).counts[JobStatus.PENDING] == 2
    engine.dispose()


def test_places_of_before_are_there_and_owned(settings: Settings) -> None:
    registry = Registry(settings, Launcher())
    add_admin(registry)
    for text in ("D.S", "D.PUBLIC", "MAKING.S"):
        database, schema = text.split(".")
        registry.databases.create(ADMIN, Securable(ObjectKind.DATABASE, database))
        registry.databases.create(ADMIN, Securable(ObjectKind.SCHEMA, database, schema))
    registry.jobs.submit(make_job(model="MAKING.S.TUNED"))
    registry.roles.create(ADMIN, "R")
    for place in (Securable(ObjectKind.DATABASE, "D"), Securable(ObjectKind.SCHEMA, "D", "S")):
        registry.grants.grant(ADMIN, Granted((Privilege.OWNERSHIP,), place), "R")
    registry.grants.grant(ADMIN, Granted((Privilege.CREATE_SCHEMA,), Securable(ObjectKind.DATABASE, "D")), "R")
    before = owned_places(registry)
    engine = sa.create_engine(settings.store_url)
    downgrade(engine, "0009")
    with engine.begin() as tx:
        left = tx.exec_driver_sql("SELECT DISTINCT privilege FROM grants ORDER BY privilege").scalars().all()
        assert left == ["OWNERSHIP", "USAGE"]
        tx.exec_driver_sql("DELETE FROM grants WHERE grantee = 'ACCOUNTADMIN'")
    upgrade(engine)
    engine.dispose()
    assert owned_places(Registry(settings, Launcher())) == before - {("D", "PUBLIC", "ACCOUNTADMIN")} - {
        ("MAKING", "PUBLIC", "ACCOUNTADMIN")
    }


def owned_places(registry: Registry) -> set[tuple[str, str, str]]:
    shown = registry.databases.show(ADMIN, ObjectKind.DATABASE) + registry.databases.show(ADMIN, ObjectKind.SCHEMA)
    return {(each.database, each.name, each.owner) for each in shown}


def test_rows_are_given_as_they_are(settings: Settings) -> None:
    rows = [
        {"scope": 'key:"a"', "granted_ucr": 2**62, "passed_on": None},
        {"scope": "role:\u00e9 \\ $.x'", "granted_ucr": -1, "passed_on": 5},
    ]
    store = Store(settings.store_url)
    assert store.rows(sa.select(*store.given("limits", rows).c)) == rows
    store.engine.dispose()
