"""A locked DuckDB over exactly the tables one caller may read: queries, training rows, functions in Python.

Safe by two fences: sql_dialect lets only reading statements through, and the connection can open no file but its own.
"""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType
from duckdb.sqltypes import VARCHAR

from luthier.errors import BadDataset, InvalidInput, InvalidSql, NotFound
from luthier.platform.malloc import give_back
from luthier.platform.names import QualifiedName, parse_name, quote
from luthier.platform.sql.sql_clock import Clock
from luthier.platform.sql.sql_dialect import to_duckdb, training_query
from luthier.platform.sql.sql_files import BATCH_ROWS, fresh_connection, literal, lock, read_file
from luthier.platform.sql.sql_session import Asker
from luthier.platform.tasks import ALIASES, FORMATS, TaskType, form_of, forms_text

__all__ = ["SqlEngine", "SqlFunction", "TableFile", "ViewQuery", "read_file"]


@dataclass(frozen=True)
class TableFile:
    """A table and the Parquet file that holds its rows."""

    name: QualifiedName
    path: Path
    select: str = "SELECT * FROM {rows}"
    """What makes the table of the file's rows."""


@dataclass(frozen=True)
class ViewQuery:
    """A view and the query, in DuckDB's own SQL, that stands for it."""

    name: QualifiedName
    query: str
    paths: tuple[str, ...]
    """Files of tables that the query reads, and nobody else here need be able to."""
    is_secure: bool = False
    """Nothing of the query is told: it, or what it reads, is a secure view."""


@dataclass(frozen=True)
class SqlFunction:
    """A scalar function in Python: equally long string arrays in, one string array out.

    Arguments that are not text arrive as JSON text, NULL as None. With `parameters` the function also takes arguments
    by name, those left out are NULL, and `call` always gets all of them; otherwise `call` gets as many as were written.
    """

    name: str
    arities: Sequence[int]
    call: Callable[[list[pa.Array]], pa.Array]
    parameters: tuple[str, ...] = ()
    takes_json: bool = False
    """Text too arrives as JSON, in quotes: so it is told from an array or an object."""
    returns: str = "VARCHAR"


class SqlEngine:
    """One caller's view of the data; every statement passes the gate of sql_dialect first."""

    def __init__(  # noqa: PLR0913 - the four limits and extras are keywords with defaults
        self,
        tables: Sequence[TableFile],
        database: str,
        schema: str,
        *,
        functions: Mapping[str, SqlFunction] | None = None,
        views: Sequence[ViewQuery] = (),
        asker: Asker | None = None,
        held: Mapping[str, pa.Table] | None = None,
        hints: Sequence[QualifiedName] = (),
        memory_limit_mb: int = 512,
        timeout_seconds: float = 60.0,
        unwanted: Event | None = None,
    ) -> None:
        """`database` and `schema` are folded keys; the files of `tables` must be there; `held` are rows in memory;
        `hints` may be told of where a name is not there; what runs stops once `unwanted` is set.
        """
        self._home = f"{quote(database)}.{quote(schema)}"
        self._paths = {path: view.name.dotted for view in views for path in view.paths}
        self._paths |= {str(table.path.resolve()): table.name.dotted for table in tables}
        self._names = [table.name for table in tables] + [view.name for view in views]
        self._names += [parse_name(name, database, schema) for name in held or {}]
        self._memory_limit_mb = memory_limit_mb
        self._timeout_seconds, self._unwanted = timeout_seconds, unwanted or Event()
        self._arities = {_last(each.name): sorted(set(each.arities)) for each in (functions or {}).values()}
        self._raised: dict[str, Exception] = {}
        self._asker = asker
        _refuse_twins(self._names)
        self._names += hints
        self._root = fresh_connection(memory_limit_mb)
        try:
            self._build(tables, database, schema, functions or {}, held or {})
            for view in views:
                self._add_view(view)
            lock(self._root, list(self._paths))
        except duckdb.Error as error:
            self._root.close()
            raise InvalidInput(f"The tables cannot be opened: {self._reason(error)}") from error
        except BaseException:
            self._root.close()
            raise

    def described(self, sql: str) -> list[tuple[str, str]]:
        """The columns of a query, with DuckDB's types, found without running it."""
        return self._describe(to_duckdb(sql, self._asker))

    def gives(self, view: ViewQuery) -> list[str]:
        """The columns of a view's query, as they are called in it."""
        return [name for name, _ in self._describe(view.query)]

    def query(self, sql: str, batch_rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """The rows of a query as a stream; faults met on the way are raised while reading."""
        return self._stream(to_duckdb(sql, self._asker), batch_rows)

    def training_rows(self, sql: str, task: TaskType, max_rows: int, of: str = "training") -> pa.Table:
        """The columns of the task's form as text, in one run of the query; other columns are left out.

        Values that are lists or objects become JSON. BadDataset for missing columns, for no rows, and for more than
        max_rows, which are not read; `of` names the query in messages.
        """
        described = self.described(sql)
        form = form_of(task, (name.lower() for name, _ in described))
        if form is None:
            raise BadDataset(_no_form(task, described, of))
        columns = {name: _text_of(_training_column(described, name, of)) for name in form}
        schema = pa.schema([(name, pa.string()) for name in form])
        batches: list[pa.RecordBatch] = []
        for batch in self._stream(training_query(sql, columns, self._asker)):
            batches.append(batch)
            if sum(each.num_rows for each in batches) > max_rows:
                raise BadDataset(f"The {of} query gives more than {max_rows} rows. Select fewer.")
        if not batches:
            raise BadDataset(f"The {of} query gives no rows: at least one is needed.")
        return pa.Table.from_batches(batches).cast(schema)

    def close(self) -> None:
        self._root.close()
        give_back()  # what DuckDB had lies between what stays

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _build(
        self,
        tables: Sequence[TableFile],
        database: str,
        schema: str,
        functions: Mapping[str, SqlFunction],
        held: Mapping[str, pa.Table],
    ) -> None:
        self._make_schema(database, schema)
        for table in tables:
            if not table.path.is_file():
                raise NotFound(f"The file of table {table.name.dotted} is missing: upload the table again.")
            rows = f"read_parquet({literal(str(table.path.resolve()))})"
            self._root.execute(f"CREATE VIEW {self._place(table.name)} AS {table.select.replace('{rows}', rows)}")
        for name, incoming in held.items():
            self._root.register("luthier_incoming", incoming)
            self._root.execute(
                f"CREATE TABLE {self._place(parse_name(name, database, schema))} AS FROM luthier_incoming"
            )
            self._root.unregister("luthier_incoming")
        for function in functions.values():
            self._add_function(function, database, schema)

    def _add_view(self, view: ViewQuery) -> None:
        where = self._place(view.name)
        try:
            self._root.execute(f"CREATE VIEW {where} AS {view.query}")
        except duckdb.Error as error:
            reason = "its query does not fit what it reads" if view.is_secure else self._reason(error)
            raise InvalidSql(f"Failure during expansion of view {view.name.dotted}: {reason}") from error

    def _place(self, name: QualifiedName) -> str:
        self._make_schema(name.database, name.schema)
        return ".".join(quote(part) for part in name.parts)

    def _make_schema(self, database: str, schema: str) -> None:
        if database.lower() in ("system", "temp", "memory"):
            raise InvalidInput(f"The database name {database} is taken by the SQL engine: use another one.")
        self._root.execute(f"ATTACH IF NOT EXISTS ':memory:' AS {quote(database)}")
        self._root.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(database)}.{quote(schema)}")

    def _add_function(self, function: SqlFunction, database: str, schema: str) -> None:
        """A UDF cannot live in a schema: it hides in the system schema and a macro there carries its name."""
        name = parse_name(function.name, database, schema)
        hidden = "__" + re.sub(r"\W", "_", ".".join(name.parts)).lower()
        self._root.create_function(
            hidden,
            self._wrapped(function),
            None,
            VARCHAR,
            type=PythonUDFType.ARROW,
            side_effects=True,  # without it a constant call already runs while a statement is only planned
            null_handling=FunctionNullHandling.SPECIAL,
        )
        variants = [[f"p{index + 1}" for index in range(arity)] for arity in sorted(set(function.arities))]
        if function.parameters:
            variants = [list(function.parameters)]
        num_required = min(function.arities)
        heads = ", ".join(
            f"{_macro_head(names, num_required if function.parameters else len(names))} AS "
            f"CAST(system.main.{hidden}({', '.join(f'to_json({quote(each)})::VARCHAR' for each in names)}) "
            f"AS {function.returns})"
            for names in variants
        )
        self._root.execute(f"CREATE MACRO {self._place(name)} {heads}")

    def _wrapped(self, function: SqlFunction) -> Callable[..., pa.Array]:
        """DuckDB keeps only an exception's text: the text is a token here, and the exception waits under it."""

        def run(*columns: pa.ChunkedArray) -> pa.Array:
            try:
                read = pa.ChunkedArray.combine_chunks if function.takes_json else _plain_text
                result = function.call([read(column) for column in columns])
                return result.cast(pa.string())
            except Exception as error:
                token = f"luthier-{secrets.token_hex(16)}"
                self._raised[token] = error
                raise RuntimeError(token) from error

        return run

    def _describe(self, rendered: str) -> list[tuple[str, str]]:
        """Column names and DuckDB types of a rendered query."""
        with self._root.cursor() as cursor, self._watched(cursor, self._clock()):
            relation = self._relation(cursor, rendered)
            return [(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)]

    def _relation(self, cursor: duckdb.DuckDBPyConnection, rendered: str) -> duckdb.DuckDBPyRelation:
        statements = cursor.extract_statements(rendered)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise InvalidSql("Only one reading query is allowed here.")
        cursor.execute(f"USE {self._home}")
        return cursor.sql(rendered)

    def _stream(self, rendered: str, batch_rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """The limit counts the engine's time alone: a slow reader of the stream does not use it up."""
        clock, cursor = self._clock(), self._root.cursor()
        try:
            with self._watched(cursor, clock):
                reader = self._relation(cursor, rendered).to_arrow_reader(batch_rows)
        except BaseException:
            cursor.close()
            raise
        return pa.RecordBatchReader.from_batches(reader.schema, self._batches(cursor, reader, clock))

    def _batches(
        self, cursor: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader, clock: Clock
    ) -> Iterator[pa.RecordBatch]:
        try:
            while True:
                try:
                    with self._watched(cursor, clock):
                        batch = reader.read_next_batch()
                except StopIteration:
                    return
                yield batch
        finally:
            reader.close()
            cursor.close()

    def _clock(self) -> Clock:
        return Clock(self._timeout_seconds, self._unwanted)

    @contextmanager
    def _watched(self, cursor: duckdb.DuckDBPyConnection, clock: Clock) -> Iterator[None]:
        try:
            with clock.running(cursor):
                yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            token = re.search(r"luthier-[0-9a-f]{32}", str(error))
            if token and token[0] in self._raised:
                raise self._raised.pop(token[0]) from None
            if clock.ran_out:
                raise InvalidSql(
                    f"The statement ran longer than {self._timeout_seconds:g} seconds and was stopped: "
                    f"read fewer rows, or split it."
                ) from error
            raise InvalidSql(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        """DuckDB's text in one line, without its prefix, its guesses and the paths of the table files."""
        text = str(error)
        missing = re.match(r'(?>(?s:.*?)Table with name )"?(.+?)"? does not exist', text)
        if missing:
            return self._no_such_table(missing[1])
        call = re.search(r"Macro (\w+)\(\) does not support", text)
        if call and call[1].lower() in self._arities:
            arities = self._arities[call[1].lower()]
            counts = " or ".join(map(str, arities)) if len(arities) < 3 else f"{arities[0]} to {arities[-1]}"
            return f"{call[1].upper()} takes {counts} arguments, and here it is called in another way."
        if isinstance(error, duckdb.OutOfMemoryException):
            return f"The statement needs more than its {self._memory_limit_mb} MB of memory: read or sort fewer rows."
        for path, name in self._paths.items():
            text = text.replace(path, name)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        kept = [lines[0], *(line for line in lines[1:] if line.startswith("Candidate bindings"))]
        return re.sub(r"^[\w ]+ Error: ", "", " ".join(kept))

    def _no_such_table(self, name: str) -> str:
        known = {each.dotted.lower(): each.dotted for each in self._names}
        known |= {each.name.lower(): each.dotted for each in reversed(self._names)}
        close = list(dict.fromkeys(known[key] for key in get_close_matches(name.lower(), known, n=3)))
        if close:
            return f"There is no table {name} that you can read. Close names: {', '.join(close)}."
        listed = ", ".join(each.dotted for each in self._names[:5]) or "none yet"
        return f"There is no table {name} that you can read. Tables: {listed}."


def _refuse_twins(names: Sequence[QualifiedName]) -> None:
    """Of two that are one to DuckDB only one could be reached."""
    seen: dict[tuple[str, ...], QualifiedName] = {}
    for name in names:
        twin = seen.setdefault(one_of(name), name)
        if twin is not name:
            raise InvalidInput(
                f"The tables {twin.dotted} and {name.dotted} differ by case or quotes alone: read them one by one."
            )


def one_of(name: QualifiedName) -> tuple[str, ...]:
    """Alike for names that are one to DuckDB, which finds them in any case, quoted or not."""
    return tuple(part.lower() for part in name.parts)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()


def _macro_head(names: Sequence[str], num_required: int) -> str:
    written = [quote(name) if at < num_required else f"{quote(name)} := NULL" for at, name in enumerate(names)]
    return f"({', '.join(written)})"


def _plain_text(column: pa.ChunkedArray) -> pa.Array:
    """Every value arrives as JSON: a JSON string becomes its text, a JSON null None, and the rest stays JSON."""
    return pa.array([_plain_value(value) for value in column.to_pylist()], pa.string())


def _plain_value(value: str | None) -> str | None:
    if value is None or value == "null":
        return None
    return json.loads(value) if value.startswith('"') else value


def _no_form(task: TaskType, described: Sequence[tuple[str, str]], of: str) -> str:
    present = ", ".join(name for name, _ in described)
    there = {ALIASES.get(name.lower(), name.lower()) for name, _ in described}
    missing = [name for name in FORMATS[task][-1] if name not in there]
    return (
        f"The {of} query gives no column {missing[0]}: {task} wants {forms_text(task)}. "
        f"Its columns are: {present}. Rename one with AS {missing[0]}."
    )


def _training_column(described: Sequence[tuple[str, str]], wanted: str, of: str) -> tuple[str, str]:
    found = [column for column in described if ALIASES.get(column[0].lower(), column[0].lower()) == wanted]
    if len(found) > 1:
        present = ", ".join(name for name, _ in described)
        raise BadDataset(f"The {of} query gives the column {wanted} {len(found)} times. Its columns are: {present}.")
    return found[0]


def _text_of(column: tuple[str, str]) -> str:
    """The SQL that gives a column as text: a JSON string without its quotes, lists and objects as JSON."""
    name, kind = column
    if kind == "JSON":
        return f"json_extract_string({quote(name)}, '$')"
    is_nested = kind.endswith("]") or kind.startswith(("STRUCT", "MAP"))
    return f"CAST(to_json({quote(name)}) AS VARCHAR)" if is_nested else f"CAST({quote(name)} AS VARCHAR)"
