"""A store that dies before any write of a verb, or before its commit: it is as before, and the next try ends as if it
had been the first. What the audit says is part of that.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa

from luthier.errors import LuthierError
from luthier.platform.audit import Entry, asked
from luthier.platform.batches import BatchStatus, Report, Step
from luthier.platform.credits import Budget, BudgetKind, Want
from luthier.platform.jobs import ACTIVE, JobError
from luthier.platform.keys import NewKey
from luthier.platform.models import ImportedModel, TableInfo, ViewInfo
from luthier.platform.names import QualifiedName
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import Granted, ObjectKind, Privilege, Securable
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from luthier.platform.tasks import TaskType
from luthier.platform.wire import IfThere
from luthier.serve.dialects.native_audit import walk
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_progress, make_record, make_settings
from tests.fakes import Launcher
from tests.platform.test_batches import make_batch, make_file

Rows = dict[str, list[dict[str, Any]]]
OLD = QualifiedName("LUTHIER", "PUBLIC", "OLD", "OLD")
TABLE, VIEW = (QualifiedName("D", "PUBLIC", each, f"D.PUBLIC.{each}") for each in "TV")
DATABASE, MODEL = Securable(ObjectKind.DATABASE, "D"), Securable(ObjectKind.MODEL, *OLD.parts)
INFO = TableInfo(name="D.PUBLIC.T", owner="admin", path="t.parquet", num_rows=1, columns=["a"], created_on=1)
CREATED = Entry(id="req_1", time=1, account="main", user="admin", action="verb", is_allowed=True, status=200)


class Died(Exception):
    """The store did."""


class DyingStore:
    """Its connection breaks before the write that a test names, or before the commit."""

    def __init__(self, engine: sa.Engine) -> None:
        self.writes_left: int | None = None
        sa.event.listen(engine, "before_cursor_execute", self._execute)
        sa.event.listen(engine, "commit", self._commit)

    def _execute(self, _connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "WITH", "PRAGMA")):
            self._count()

    def _commit(self, _connection: Any) -> None:
        self._count()

    def _count(self) -> None:
        if self.writes_left is not None:
            if not self.writes_left:
                raise Died
            self.writes_left -= 1


def want(id: str, turn: int, total: int) -> Want:
    return Want(id=id, account="main", turn=turn, total_ucr=total, need_ucr=total)


def view(created_on: int) -> ViewInfo:
    fields = {"owner": ADMIN.user, "role": ADMIN.role, "query": "SELECT a FROM t", "gives": ["a"], "columns": ["a"]}
    return ViewInfo(name=VIEW.display, reads=[TABLE.dotted], created_on=created_on, **fields)


def imported(sha: str) -> ImportedModel:
    given: dict[str, Any] = {"base_model": "tiny", "rank": 8, "task_type": TaskType.CHAT_COMPLETION, "created_on": 1}
    return ImportedModel(**given, path=f"adapter-{sha}", sha256=sha * 32)


RECORDS = [make_record(f"req_{number}", amount_ucr=3, leases=("l1",)) for number in range(3)]
FLUSH = Report(completed=2, failed=1, usage=[make_record("req_b", amount_ucr=2, leases=("l1",))])
BUDGET = Budget(kind=BudgetKind.ROLE, name="R", granted_ucr=5)
NEW_KEY = NewKey(id="key_2", hash="h2", prefix="lt_2")
VERBS: dict[str, Callable[[Registry], object]] = {
    "submit": lambda registry: registry.jobs.submit(make_job("ft_2", "LUTHIER.PUBLIC.OTHER")),
    "finish": lambda registry: registry.jobs.finish("ft_1", make_finished(trained_tokens=40)),
    "cancel": lambda registry: registry.jobs.cancel(ADMIN, "ft_1"),
    "fail": lambda registry: registry.jobs.fail("ft_1", JobError(code="X", message="x"), billable=True),
    "settle": lambda registry: registry.ledger.append(RECORDS),
    "settle without a lease": lambda registry: registry.ledger.append([make_record("req_9", amount_ucr=4)]),
    "flush of a batch": lambda registry: registry.batches.report("batch_1", "h", FLUSH),
    "end of a batch": lambda registry: registry.batches.advance("batch_1", "h", Step(to=BatchStatus.FAILED)),
    "top up": lambda registry: registry.credits.top_up(ADMIN, "main", 7, "k2"),
    "new lease": lambda registry: registry.credits.renew("r2", [], [want("l2", 1, 9)]),
    "larger, smaller": lambda registry: registry.credits.renew("r1", [], [want("l1", 2, 30), want("l0", 2, 1)]),
    "heir": lambda registry: registry.credits.end_holder("r1"),
    "budget": lambda registry: registry.budgets.set(ADMIN, BUDGET),
    "promote": lambda registry: registry.versions.promote(ADMIN, OLD, 2),
    "alias": lambda registry: registry.versions.set_alias(ADMIN, OLD, "PROD", 2),
    "drop a model": lambda registry: registry.models.drop(ADMIN, OLD),
    "drop a version": lambda registry: registry.models.drop(ADMIN, OLD, 2),
    "drop a table": lambda registry: registry.tables.drop(ADMIN, TABLE),
    "replace a view": lambda registry: registry.views.create(ADMIN, VIEW, view(2), IfThere.REPLACE),
    "drop a view": lambda registry: registry.views.drop(ADMIN, VIEW),
    "make a database": lambda registry: registry.databases.create(ADMIN, Securable(ObjectKind.DATABASE, "E")),
    "drop a database": lambda registry: registry.databases.drop(ADMIN, DATABASE, cascade=True),
    "grant": lambda registry: registry.grants.grant(ADMIN, Granted((Privilege.USAGE, Privilege.READ), MODEL), "R"),
    "pass on": lambda registry: registry.grants.grant(ADMIN, Granted((Privilege.OWNERSHIP,), DATABASE), "R"),
    "drop a role": lambda registry: registry.roles.drop(ADMIN, "R"),
    "drop a user": lambda registry: registry.users.drop(ADMIN, "U"),
    "rotate a key": lambda registry: registry.keys.rotate(ADMIN, "key_1", NEW_KEY, 1),
}
BY_NOBODY = {"finish", "fail", "settle", "settle without a lease", "flush of a batch", "end of a batch"}
BY_NOBODY |= {"new lease", "larger, smaller", "heir"}
"""What no request asks for: the audit is not told."""
ENDS = {
    "submit": (100, 0, 6 + 30 + 6, 0),
    "finish": (100, 4, 30, 0),
    "cancel": (100, 2, 30, 0),
    "fail": (100, 2, 30, 0),
    "settle": (100, 9, 6 + 21, 0),
    "settle without a lease": (100, 4, 36, 4),
    "flush of a batch": (100, 2, 34, 0),
    "top up": (107, 0, 36, 0),
    "new lease": (100, 0, 36 + 9, 0),
    "larger, smaller": (100, 0, 6 + 31, 0),
    "heir": (100, 0, 6, 0),
}
"""Granted, spent, reserved and overrun of the account; of the verbs that are not here as at first."""


class Place:
    """A store at rest, and registries that start over it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.store = Store(settings.store_url)
        self.dying = DyingStore(self.store.engine)
        self._launcher = Launcher()

    def start(self) -> Registry:
        """What the last one had not committed is gone."""
        self.store.engine.dispose()
        with mock.patch("luthier.platform.registry.registry.Store", return_value=self.store):
            return Registry(self._settings, self._launcher, clock=lambda: 5_000)

    def rows(self) -> Rows:
        tables = self.store.tables.tables
        return {name: self.store.rows(sa.select(each).order_by(*each.primary_key)) for name, each in tables.items()}

    def told(self) -> Any:
        """To be compared."""
        return self.rows()

    def keep(self) -> None: ...

    def put_back(self) -> None:
        """As it was when it was kept."""

    def draw_again(self) -> None:
        """The numbers that a lost transaction drew; that they are left out is no difference."""


class FilePlace(Place):
    """SQLite."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._file = Path(settings.store_url.removeprefix("sqlite:///"))
        self._image = self._file.with_suffix(".image")

    def keep(self) -> None:
        with self.store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.store.engine.dispose()
        shutil.copy(self._file, self._image)

    def put_back(self) -> None:
        self.store.engine.dispose()
        for end in ("-wal", "-shm"):
            Path(f"{self._file}{end}").unlink(missing_ok=True)
        shutil.copy(self._image, self._file)


class ServerPlace(Place):
    """PostgreSQL."""

    def told(self) -> dict[str, str | None]:
        """All in one question. The numbers of grants mean nothing, and one that is made again has another."""
        row = {"grants": "to_jsonb(t) - 'id'"}
        each = (
            f"SELECT '{name}', (SELECT json_agg({row.get(name, 'to_jsonb(t)')} ORDER BY t::text)::text FROM {name} t)"
            for name in self.store.tables.tables
        )
        with self.store.reading() as tx:
            return dict(tx.exec_driver_sql(" UNION ALL ".join(each)).tuples().all())

    def keep(self) -> None:
        self._kept, self._told = self.rows(), self.told()
        with self.store.reading() as tx:
            drawn = tx.exec_driver_sql("SELECT sequencename, last_value FROM pg_sequences")
            self._drawn: dict[str, int | None] = dict(drawn.tuples().all())

    def put_back(self) -> None:
        now = self.told()
        with self.store.engine.begin() as tx:
            tx.exec_driver_sql("SET LOCAL session_replication_role = replica")  # no trigger, in any order
            for name in (name for name, text in self._told.items() if text != now[name]):
                tx.execute(sa.delete(self.store.table(name)))
                if self._kept[name]:
                    tx.execute(sa.insert(self.store.table(name)), self._kept[name])
        self.draw_again()

    def draw_again(self) -> None:
        with self.store.engine.begin() as tx:
            for name, drawn in self._drawn.items():
                tx.exec_driver_sql(f"SELECT setval('{name}', {drawn or 1}, {drawn is not None})")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("home")
    if request.param == "sqlite":
        shutil.copy(empty_database, home / "luthier.db")
        yield furnished(FilePlace(make_settings(home, home / "no-weights", database_url="")))
        return
    with request.getfixturevalue("postgres").database() as url:
        place = ServerPlace(make_settings(home, home / "no-weights", database_url=url))
        yield furnished(place)
        place.store.engine.dispose()


@pytest.fixture
def place(built: Place) -> Place:
    built.put_back()
    return built


def furnished(place: Place) -> Place:
    """A job runs, a batch too, and a replica has two leases; there is one of everything else."""
    registry = place.start()
    add_admin(registry)
    registry.credits.top_up(ADMIN, "main", 100, "k1")
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.report("ft_1", make_progress(trained_tokens=20))
    registry.credits.renew("r1", [], [want("l1", 1, 20), want("l0", 1, 10)])
    for sha in ("aa", "bb"):
        registry.models.import_model(ADMIN, OLD, imported(sha), new_version=sha == "bb")
    registry.roles.create(ADMIN, "R")
    registry.users.create(ADMIN, "U")
    registry.roles.grant(ADMIN, "R", Securable(ObjectKind.USER, name="U"))
    registry.databases.create(ADMIN, DATABASE)
    registry.tables.create(ADMIN, TABLE, INFO)
    registry.views.create(ADMIN, VIEW, view(1))
    registry.grants.grant(ADMIN, Granted((Privilege.SELECT,), Securable(ObjectKind.TABLE, *TABLE.parts)), "R")
    registry.keys.create(ADMIN, NewKey(id="key_1", hash="h1", prefix="lt_1"))
    registry.files.create(make_file())
    registry.batches.submit(make_batch())
    registry.batches.claim("h")
    place.keep()
    return place


@contextmanager
def by_a_request() -> Iterator[None]:
    token = asked.set(lambda: CREATED)
    try:
        yield
    finally:
        asked.reset(token)


@pytest.mark.parametrize("verb", VERBS)
def test_as_before_and_then_as_if_nothing_had_been(place: Place, verb: str) -> None:
    do, before = VERBS[verb], place.told()
    with by_a_request():
        do(place.start())
        after = place.told()
        check(place.start(), place.rows(), verb)
        with suppress(LuthierError):  # what is gone may be gone
            do(place.start())
        assert place.told() == after, "called twice"
        for num_writes in itertools.count():
            place.put_back()
            registry = place.start()
            place.dying.writes_left = num_writes
            try:
                do(registry)
            except Died:
                place.dying.writes_left = None
            else:
                break
            restarted = place.start()
            assert place.told() == before, num_writes
            place.draw_again()
            do(restarted)
            assert place.told() == after, num_writes
    place.dying.writes_left = None
    assert num_writes >= 2


def check(registry: Registry, rows: Rows, verb: str) -> None:
    (limit,) = [row for row in rows["limits"] if row["scope"] == ""]
    held = [row for row in rows["reservations"] if row["scope"] == ""]
    assert limit["reserved_ucr"] == sum(row["amount_ucr"] - row["spent_ucr"] for row in held)
    assert limit["spent_ucr"] == sum(row["amount_ucr"] for row in rows["usage"])
    assert limit["granted_ucr"] == sum(row["amount_ucr"] for row in rows["topups"])
    sums = tuple(limit[f"{name}_ucr"] for name in ("granted", "spent", "reserved", "overrun"))
    assert sums == ENDS.get(verb, (100, 0, 36, 0))
    jobs = {row["id"]: row["status"] for row in rows["jobs"]}
    assert {row["id"] for row in held if row["until"] is None} == {id for id in jobs if jobs[id] in ACTIVE}
    made = [row["job_id"] for row in rows["versions"] if row["job_id"] in jobs]
    assert made == [id for id in jobs if jobs[id] == "SUCCESS"]
    asked_for = [row["id"] for row in rows["audit"] if not row["id"].startswith("up_key_")]  # that of the first key
    assert asked_for == ([] if verb in BY_NOBODY else ["req_1"])
    assert walk(registry.audit, ADMIN, None, False).is_whole
