"""Locked DuckDB connections, and uploaded files (CSV, JSON lines, Parquet, plain text) read as Arrow.

Knows no tables and no SQL of users. A file's text becomes a type only where the type gives the same text back.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from luthier.errors import InvalidInput
from luthier.platform.names import quote

BATCH_ROWS = 8192
MAX_JSON_LINE_BYTES = 64 * 2**20
MAX_CSV_ROW_BYTES = 16 * 2**20

_CSV_TYPES = ("BIGINT", "DOUBLE", "BOOLEAN", "DATE", "TIMESTAMP")
# A JSON value's type; an integer above BIGINT's range counts as text.
_KIND = (
    "CASE WHEN json_type(value) = 'UBIGINT' AND TRY_CAST(value::VARCHAR AS BIGINT) IS NULL THEN 'VARCHAR' "
    "ELSE json_type(value) END"
)
_ALWAYS_TEXT = ("prompt", "completion", "response", "messages", "chosen", "rejected", "text")


def fresh_connection(memory_limit_mb: int) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB without extensions, spill files or a view of Python's variables; not locked yet."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": f"{memory_limit_mb}MB",
            "threads": "1",
            "temp_directory": "",
        },
    )
    connection.execute("SET python_enable_replacements = false")
    connection.execute(
        "SET GLOBAL TimeZone = 'UTC'"
    )  # else it is the machine's, and hours and days are others elsewhere
    return connection


def lock(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """From here on the connection opens these files and nothing else, and no setting can be changed back."""
    connection.execute(f"SET allowed_paths = [{', '.join(literal(path) for path in paths)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def literal(text: str) -> str:
    """Text as a SQL string of DuckDB."""
    return "'" + text.replace("'", "''") + "'"


def read_file(path: Path, name: str) -> pa.RecordBatchReader:
    """The rows of an uploaded file, read as the ending of `name` says. Raises InvalidInput with the line at fault."""
    readers = {".csv": _csv_query, ".jsonl": _jsonl_query, ".ndjson": _jsonl_query, ".parquet": _parquet_query}
    ending = Path(name).suffix.lower()
    if ending not in (*readers, ".txt"):
        endings = ", ".join((*readers, ".txt"))
        raise InvalidInput(f"The file {name} cannot be read as a table: accepted endings are {endings}.")
    if path.stat().st_size == 0:
        raise InvalidInput(f"The file {name} is empty.")
    if ending == ".txt":
        return pa.table({"text": [read_text(path, name)]}).to_reader()
    connection = fresh_connection(memory_limit_mb=1024)
    try:
        lock(connection, [str(path.resolve())])
        with _explained(path, name):
            reader = connection.sql(readers[ending](connection, path, name)).to_arrow_reader(BATCH_ROWS)
            first = next(reader, None)
        if first is None:
            raise InvalidInput(f"The file {name} has no rows.")
    except BaseException:
        connection.close()
        raise
    return pa.RecordBatchReader.from_batches(reader.schema, _batches(connection, reader, first, (path, name)))


def read_text(path: Path, name: str) -> str:
    """The whole of a text file as it stands. InvalidInput when it is not UTF-8, or has no text."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The file {name} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    if "\0" in text:
        raise InvalidInput(f"The file {name} is not text: it has binary content.")
    if not text.strip():
        raise InvalidInput(f"The file {name} has no text.")
    return text


def _batches(
    connection: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader, first: pa.RecordBatch, source: tuple[Path, str]
) -> Iterator[pa.RecordBatch]:
    try:
        batch: pa.RecordBatch | None = first
        while batch is not None:
            yield batch
            with _explained(*source):
                batch = next(reader, None)
    finally:
        reader.close()
        connection.close()


@contextmanager
def _explained(path: Path, name: str) -> Iterator[None]:
    """DuckDB's and Arrow's complaints about a file as InvalidInput in one line, with the user's name of it."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if Path(name).suffix.lower() in (".jsonl", ".ndjson"):
            _raise_first_bad_line(path, name)
        text = str(error).replace(str(path.resolve()), name)
        line = re.search(r"Line: (\d+)", text)
        fields = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
        if line and fields:
            reason = f"it has {fields[2]} fields where the header has {fields[1]}"
            raise InvalidInput(f"Line {line[1]} of {name} does not fit: {reason}. Quote fields with commas.") from error
        reasons = [each for each in text.splitlines() if each.strip() and not re.search("Line: |Original Line", each)]
        reason = re.sub(r"^[\w ]+ Error: ", "", (reasons or ["it is damaged"])[0])
        where = f"Line {line[1]} of {name}" if line else f"The file {name}"
        raise InvalidInput(f"{where} cannot be read: {reason}") from error


def _csv_query(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> str:
    header, delimiter = _csv_header(path, name)
    _check_columns(header, name)
    _check_quotes(path, name, delimiter)
    columns = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in header)
    source = (
        f"read_csv({literal(str(path.resolve()))}, columns = {{{columns}}}, auto_detect = false, header = true, "
        f"delim = {literal(delimiter)}, quote = '\"', escape = '\"', strict_mode = true, null_padding = false, "
        f"max_line_size = {MAX_CSV_ROW_BYTES}, comment = '', parallel = false)"
    )
    types = _csv_types(connection, source, header)
    return f"SELECT {', '.join(_typed(column, kind) for column, kind in zip(header, types, strict=True))} FROM {source}"


def _csv_header(path: Path, name: str) -> tuple[list[str], str]:
    """The first record and its delimiter: a comma, or else a semicolon or tab when the line has no comma."""
    with path.open("rb") as binary:
        if b"\0" in binary.read(2**16):
            raise InvalidInput(f"The file {name} is not CSV: it has binary content.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            line = text.readline(2**20)
            delimiter = next((each for each in ",;\t" if each in line), ",")
            text.seek(0)
            header = next(csv.reader(text, delimiter=delimiter, strict=True), [])
    except UnicodeDecodeError as error:
        raise InvalidInput(f"The file {name} is not UTF-8 text: save it as UTF-8.") from error
    except csv.Error as error:
        raise InvalidInput(f"Line 1 of {name}, the header, cannot be read: {error}.") from error
    return header, delimiter


def _check_quotes(path: Path, name: str, delimiter: str) -> None:
    """DuckDB drops a last record whose quote is never closed without a word: it is looked for here."""
    with path.open("rb") as binary:
        if sum(chunk.count(b'"') for chunk in iter(lambda: binary.read(2**20), b"")) % 2 == 0:
            return
    start = 1
    csv.field_size_limit(MAX_CSV_ROW_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as text:
        records = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            for _ in records:
                start = records.line_num + 1
        except UnicodeDecodeError as error:
            raise InvalidInput(f"The file {name} is not UTF-8 text: save it as UTF-8.") from error
        except csv.Error as error:
            raise InvalidInput(f"The record at line {start} of {name} has a quote that is never closed.") from error


def _check_columns(columns: Sequence[str], name: str) -> None:
    if not columns:
        raise InvalidInput(f"The file {name} has no columns: its first line must name them.")
    seen: set[str] = set()
    for number, column in enumerate(columns, 1):
        if not column.strip():
            raise InvalidInput(f"Column {number} of {name} has no name: the first line must name every column.")
        if column.lower() in seen:
            raise InvalidInput(f"The file {name} has the column {column} twice (case does not count): rename one.")
        seen.add(column.lower())


def _csv_types(connection: duckdb.DuckDBPyConnection, source: str, header: Sequence[str]) -> list[str]:
    """For each column the first type whose values all read as the very text of the file."""
    tests = [f"count({quote(column)}) > 0 AND {_fits(column, kind)}" for column in header for kind in _CSV_TYPES]
    fits = connection.sql(f"SELECT {', '.join(tests)} FROM {source}").fetchall()[0]
    found = []
    for at, column in enumerate(header):
        own = fits[at * len(_CSV_TYPES) : (at + 1) * len(_CSV_TYPES)]
        kinds = [kind for kind, good in zip(_CSV_TYPES, own, strict=True) if good]
        found.append("VARCHAR" if not kinds or column.lower() in _ALWAYS_TEXT else kinds[0])
    return found


def _fits(column: str, kind: str) -> str:
    cell = quote(column)
    back = f"CAST(TRY_CAST({cell} AS {kind}) AS VARCHAR)"
    same = f"{back} IN ({cell}, {cell} || '.0')" if kind == "DOUBLE" else f"{back} = {cell}"
    return f"bool_and({cell} IS NULL OR coalesce({same}, false))"


def _typed(column: str, kind: str) -> str:
    return quote(column) if kind == "VARCHAR" else f"CAST({quote(column)} AS {kind}) AS {quote(column)}"


def _jsonl_query(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> str:
    source = (
        f"read_ndjson_objects({literal(str(path.resolve()))}, maximum_object_size = {MAX_JSON_LINE_BYTES}, "
        f"ignore_errors = false)"
    )
    if connection.sql(f"SELECT count(*) FROM {source} WHERE json_type(json) <> 'OBJECT'").fetchall()[0][0]:
        _raise_first_bad_line(path, name)
    keys = connection.sql(
        f"SELECT key, list(DISTINCT {_KIND}) FROM (SELECT row, key, json_extract(json, {_pointer('key')}) AS value "
        f"FROM (SELECT row, json, unnest(json_keys(json)) AS key "
        f"FROM (SELECT json, row_number() OVER () AS row FROM {source}))) GROUP BY key ORDER BY min(row)"
    ).fetchall()
    if not keys:
        raise InvalidInput(f"The file {name} has no columns: every line must be an object with keys.")
    _check_columns([key for key, _ in keys], name)
    return f"SELECT {', '.join(_json_column(key, set(kinds)) for key, kinds in keys)} FROM {source}"


def _json_column(key: str, kinds: set[str]) -> str:
    """Numbers and booleans where all values are such; anything else as text, nested values as JSON text."""
    value = f"json_extract_string(json, {literal(_pointer_text(key))})"
    kinds = kinds - {"NULL"}
    whole, numbers = {"UBIGINT", "BIGINT"}, {"UBIGINT", "BIGINT", "DOUBLE"}
    kind = "VARCHAR"
    if kinds and key.lower() not in _ALWAYS_TEXT:
        kind = "BIGINT" if kinds <= whole else "DOUBLE" if kinds <= numbers else "VARCHAR"
        kind = "BOOLEAN" if kinds == {"BOOLEAN"} else kind
    return f"CAST({value} AS {kind}) AS {quote(key)}"


def _pointer(column: str) -> str:
    """SQL that gives the JSON pointer of the key in a column."""
    return f"'/' || replace(replace({column}, '~', '~0'), '/', '~1')"


def _pointer_text(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _raise_first_bad_line(path: Path, name: str) -> None:
    """Finds the first line that is not a JSON object, in the file itself; returns if there is none."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise InvalidInput(f"Line {number} of {name} is not UTF-8 text.") from error
            except json.JSONDecodeError as error:
                if number == 1 and line.lstrip().startswith(b"["):
                    raise InvalidInput(_array_fault(name)) from error
                raise InvalidInput(f"Line {number} of {name} is not JSON: {error.msg} at {error.colno}.") from error
            except (RecursionError, ValueError) as error:
                reason = "it is nested too deep, or has too long a number"
                raise InvalidInput(f"Line {number} of {name} cannot be read: {reason}.") from error
            if number == 1 and isinstance(value, list):
                raise InvalidInput(_array_fault(name))
            if not isinstance(value, dict):
                raise InvalidInput(f"Line {number} of {name} is not a JSON object: write one object a line.")


def _array_fault(name: str) -> str:
    return f"Line 1 of {name} begins a JSON array: write one object a line, without brackets and commas between."


def _parquet_query(connection: duckdb.DuckDBPyConnection, path: Path, name: str) -> str:
    with path.open("rb") as binary:
        if binary.read(4) != b"PAR1":
            raise InvalidInput(f"The file {name} is not a Parquet file.")
    _check_columns(pq.read_schema(path).names, name)
    return f"SELECT * FROM read_parquet({literal(str(path.resolve()))})"
