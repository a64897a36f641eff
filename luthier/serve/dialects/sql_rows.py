"""Rows as bytes, piece by piece: as a stream of Arrow's, or as JSON.

Python's JSON holds the interpreter for a whole piece, and with it the loop: so none has many cells.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, Protocol

import pyarrow as pa

from luthier.errors import InvalidSql
from luthier.platform.settings import MIB

PIECE_BYTES, PIECE_CELLS = 2**18, 2**14
MAX_ROW_MIB = 16
"""What a value of Snowflake's may have; a row is one piece at least."""
MAX_ROW_VALUES = 2**20
"""Those in lists, maps and structs too."""
NANOSECONDS = 10**9


class Out(Protocol):
    """What bytes are written to."""

    def write(self, part: bytes) -> int: ...


Write = Callable[[pa.Schema, Iterable[pa.RecordBatch], Out], None]


def pieces(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The rows in batches of a few hundred KiB. InvalidSql for a row that is larger than any may be."""
    for batch in rows:
        yield from _cut(batch)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """In halves, as one row may be far larger than the others."""
    num_values = sum(map(_num_values, batch.columns))
    is_small = batch.nbytes <= PIECE_BYTES and num_values <= PIECE_CELLS
    if batch.num_rows > 1 and not is_small:
        half = batch.num_rows // 2
        yield from _cut(batch.slice(0, half))
        yield from _cut(batch.slice(half))
        return
    if batch.num_rows == 1 and batch.nbytes > MAX_ROW_MIB * MIB:
        raise InvalidSql(f"A row of the answer has more than {MAX_ROW_MIB} MiB: select less of it.")
    if batch.num_rows == 1 and num_values > MAX_ROW_VALUES:
        raise InvalidSql(f"A row of the answer has more than {MAX_ROW_VALUES:,} values: select less of it.")
    yield batch


def _num_values(column: pa.Array) -> int:
    kind, within = column.type, []
    if pa.types.is_map(kind) and len(column):
        first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
        within = [each.slice(first, last - first) for each in (column.keys, column.items)]
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        within = [column.flatten()]
    elif pa.types.is_struct(kind):
        within = column.flatten()
    return len(column) + sum(map(_num_values, within))


def write_arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], to: Out) -> None:
    """A stream of Arrow's."""
    with pa.ipc.new_stream(pa.PythonFile(to, mode="w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], to: Out) -> None:
    """{"columns": [...], "rows": [[...]]}.

    JSON has no NaN and no infinity: they are the texts "NaN", "Infinity" and "-Infinity". Bytes are in hexadecimal,
    intervals as in ISO 8601.
    """
    to.write(f'{{"columns": {json.dumps(schema.names)}, "rows": ['.encode())
    is_first = True
    for batch in batches:
        cells = [list(row) for row in zip(*map(_cells, batch.columns), strict=True)]
        if cells:
            text = json.dumps(cells, default=_to_json, allow_nan=False)[1:-1]
            to.write((text if is_first else f", {text}").encode())
            is_first = False
    to.write(b"]}")


def _cells(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    kind = column.type
    is_plain = not (pa.types.is_floating(kind) or pa.types.is_interval(kind) or pa.types.is_nested(kind))
    return values if is_plain else [_in_json(value) for value in values]


def _in_json(value: Any) -> Any:
    """As text what JSON has nothing for, but would write as something else, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{Decimal(value.nanoseconds) / NANOSECONDS:f}S"
    if isinstance(value, dict):
        return {key: _in_json(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_in_json(held) for held in value]
    return value


def _to_json(value: Any) -> int | str:
    """Whole decimals (a SUM of integers is one) are numbers; other decimals and times are text."""
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        return int(value)
    if isinstance(value, bytes):
        return value.hex().upper()
    return str(value)
