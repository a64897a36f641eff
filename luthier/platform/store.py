"""The store: tables by reflection of the migrations, short transactions. SQLite (WAL) or PostgreSQL.

Knows no rules: those stand in registry.py.
"""

import json
import logging
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from luthier.errors import Conflict, InvalidInput, Unavailable

log = logging.getLogger(__name__)

Row = dict[str, Any]
MIGRATIONS = str(Path(__file__).parent / "migrations")

WRITTEN = "luthier_written"
"""Tables that a connection's transaction has changed."""
QUIET = {
    "audit",
    "audit_heads",
    "batches",
    "deliveries",
    "events",
    "files",
    "job_counts",
    "jobs",
    "limits",
    "notices",
    "proofs",
    "rate_leases",
    "rate_limits",
    "reservations",
    "topups",
    "usage",
    "usage_hours",
    "webhooks",
}
"""Written all the time, and of no weight for whom a key lets in, what a name means and who may ask it."""


class Store:
    """A database at the newest migration."""

    def __init__(self, url: str, migrate: bool = True, read_only: bool = False) -> None:
        """Without `migrate` it must be there, and at that migration: it is another platform's, or with `read_only` that
        of the one beside."""
        self.engine = sa.create_engine(url)
        self.epoch = uuid.uuid4().hex
        """Another one after each change to any table that is not QUIET: what was read before may be old."""
        sa.event.listen(self.engine, "before_execute", _note_table)
        sa.event.listen(self.engine, "before_cursor_execute", _refuse_nuls)
        sa.event.listen(self.engine, "handle_error", _refuse_value)
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _tune_sqlite)
        self.is_read_only = read_only
        if read_only:
            sa.event.listen(self.engine, "connect", _ONLY_READ[self.engine.dialect.name])
        if migrate:
            upgrade(self.engine)
        else:
            _check_newest(self.engine)
        self.tables = _tables(self.engine)

    def table(self, name: str) -> sa.Table:
        return self.tables.tables[name]

    @contextmanager
    def transaction(self, quiet: Collection[str] = ()) -> Iterator[sa.Connection]:
        """One write transaction: all or nothing. What it writes to `quiet` tables is of no such weight either."""
        written: set[str] = set()
        try:
            with self.engine.begin() as connection:
                connection.info[WRITTEN] = written
                yield connection
        finally:
            if not written <= QUIET.union(quiet):  # after the commit: it is never the newer one with older rows
                self.note_change()

    def note_change(self) -> None:
        """What was read before may be old."""
        self.epoch = uuid.uuid4().hex

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Reading as of one moment, whatever is written meanwhile."""
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")  # Python's sqlite3 begins none to read
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    def rows(self, query: sa.Select[Any]) -> list[Row]:
        with self.reading() as connection:
            return fetch(connection, query)

    def given(self, name: str, rows: Sequence[Mapping[str, Any]]) -> sa.FromClause:
        """At least one row, of some of a table's columns, to join with: one statement for however many, as one text.

        Drivers take ten times as long for thousands of parameters, and refuse tens of thousands.
        """
        columns = [self.table(name).c[column] for column in rows[0]]
        _check_texts(rows)
        return _GIVEN[self.engine.dialect.name](columns, json.dumps(rows))

    def insert_missing(self, connection: sa.Connection, name: str, values: list[Mapping[str, Any]]) -> int:
        """Inserts the rows whose unique keys are not there yet; returns how many were new."""
        if not values:
            return 0
        table = self.table(name)
        if self.engine.dialect.name == "postgresql":
            return self._insert_missing_postgres(connection, name, values)
        return connection.execute(sa.insert(table).prefix_with("OR IGNORE"), values).rowcount

    def copy_missing(self, connection: sa.Connection, name: str, rows: sa.Select[Any]) -> None:
        """Inserts the rows of a query, by the names of its columns, whose unique keys are not there yet."""
        names, table = [column.name for column in rows.selected_columns], self.table(name)
        if self.engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert

            connection.execute(insert(table).from_select(names, rows).on_conflict_do_nothing())
        else:
            connection.execute(sa.insert(table).prefix_with("OR IGNORE").from_select(names, rows))

    def _insert_missing_postgres(self, connection: sa.Connection, name: str, values: list[Mapping[str, Any]]) -> int:
        """The rows that come back are counted: of many statements in one, psycopg knows no number."""
        from sqlalchemy.dialects.postgresql import insert

        table = self.table(name)
        if any(isinstance(column.type, sa.JSON) for column in table.c):
            query = insert(table).on_conflict_do_nothing().returning(*table.primary_key)
            return len(connection.execute(query, values).all())
        rows = insert(table).from_select(list(values[0]), sa.select(*self.given(name, values).c))
        return len(connection.execute(rows.on_conflict_do_nothing().returning(*table.primary_key)).all())


def fetch(connection: sa.Connection, query: sa.Select[Any]) -> list[Row]:
    """In a third of the time of `mappings`, which counts for a thousand."""
    found = connection.execute(query)
    names = tuple(found.keys())
    return [dict(zip(names, row, strict=True)) for row in found.all()]


def fetch_first(connection: sa.Connection, query: sa.Select[Any]) -> Row | None:
    found = connection.execute(query)
    names, row = tuple(found.keys()), found.first()
    return dict(zip(names, row, strict=True)) if row else None


def exists(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> bool:
    """Whether there is a row, of the table whose columns these are."""
    return bool(connection.execute(sa.select(sa.exists().where(*where))).scalar_one())


def upgrade(engine: sa.Engine) -> None:
    """Brings the database to the newest revision."""
    found = _revision(engine)
    if found == _newest():
        return
    _check_known(found)
    config = Config()
    config.set_main_option("script_location", MIGRATIONS)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _check_known(found: str | None) -> None:
    known = ScriptDirectory(MIGRATIONS)
    if found is None or found in {script.revision for script in known.walk_revisions()}:
        return
    first, newest = known.get_base(), known.get_current_head()
    if found < str(first):
        raise Conflict(
            f"The store is at revision {found}, of a Luthier before the first release, which begins at {first}. Begin "
            f"with an empty home (LUTHIER_HOME) or database (LUTHIER_DATABASE_URL), or first start a Luthier on it "
            f"that knows both."
        )
    raise Conflict(
        f"The store is at revision {found}, and this Luthier knows none after {newest}. Start the version that wrote "
        f"it, or a later one."
    )


def _check_newest(engine: sa.Engine) -> None:
    """A file of SQLite's that is not there would be made by looking for it."""
    is_file = engine.dialect.name == "sqlite" and engine.url.database
    if is_file and not Path(str(engine.url.database)).is_file():
        raise Conflict("The other store is not there yet. Start Luthier there first (luthier up).")
    newest = _newest()
    try:
        found = _revision(engine)
    except sa.exc.OperationalError as error:
        log.warning("another store does not answer: %s", error.orig)  # its address is for who runs the platform
        raise Unavailable("The other store does not answer just now. Try again; the logs say more.") from error
    if found != newest:
        raise Conflict(
            f"The other store is at revision {found}, and this Luthier knows {newest}. Run the same version in both."
        )


def _revision(engine: sa.Engine) -> str | None:
    """The database's; None when it is empty."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


@cache
def _newest() -> str | None:
    """To read all migrations takes longer than to open a store."""
    return ScriptDirectory(MIGRATIONS).get_current_head()


def _tables(engine: sa.Engine) -> sa.MetaData:
    """Read from the first database of a dialect: at one migration they are the same in all."""
    dialect = engine.dialect.name
    if dialect not in _TABLES:
        tables = sa.MetaData()
        tables.reflect(engine)
        _TABLES[dialect] = tables
    return _TABLES[dialect]


_TABLES: dict[str, sa.MetaData] = {}


def _refuse_nuls(
    _connection: sa.Connection, _cursor: Any, _statement: str, given: Any, _context: Any, is_many: bool
) -> None:
    _check_texts(given if is_many else (given,))


def _check_texts(rows: Iterable[Mapping[str, Any] | Sequence[Any]]) -> None:
    """PostgreSQL has no text with a NUL in it: SQLite is to take none either."""
    for row in rows:
        for value in row.values() if isinstance(row, Mapping) else row:
            if isinstance(value, str) and "\0" in value:
                raise InvalidInput("The store does not take such a value: a text has a NUL character in it.")


def _refuse_value(context: sa.engine.ExceptionContext) -> None:
    """What the database cannot hold, such as a number of too many digits."""
    if isinstance(context.sqlalchemy_exception, sa.exc.DataError):
        raise InvalidInput(f"The store does not take such a value: {context.original_exception}.")


def _note_table(connection: sa.Connection, statement: Any, *_: Any) -> None:
    if getattr(statement, "is_dml", False) and WRITTEN in connection.info:
        connection.info[WRITTEN].add(statement.table.name)


def _tune_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in (
        *("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=10000"),
        "cache_size=-65536",  # KiB: the upper levels of large indexes, and what a batch of usage writes
        "wal_autocheckpoint=4000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _given_postgres(columns: Sequence[sa.Column[Any]], text: str) -> sa.FromClause:
    rows = sa.func.json_to_recordset(sa.cast(sa.literal(text, sa.Text), sa.JSON))
    named = rows.table_valued(*(sa.column(column.name, column.type) for column in columns))
    return named.render_derived("given", with_types=True)


def _given_sqlite(columns: Sequence[sa.Column[Any]], text: str) -> sa.FromClause:
    value = sa.func.json_each(text).table_valued("value").c.value
    parts = [sa.func.json_extract(value, f"$.{column.name}", type_=column.type) for column in columns]
    return sa.select(*(part.label(column.name) for part, column in zip(parts, columns, strict=True))).subquery("given")


_GIVEN = {"sqlite": _given_sqlite, "postgresql": _given_postgres}


def _only_read_sqlite(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA query_only=ON").close()


def _only_read_postgres(connection: Any, _record: Any) -> None:
    connection.read_only = True


_ONLY_READ = {"sqlite": _only_read_sqlite, "postgresql": _only_read_postgres}
