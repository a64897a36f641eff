"""The body of an answer to a statement: written batch by batch, in memory while it is small, then in a file.

It is whole before the first byte of it is sent: what fails on the way is an error, not half an answer.
"""

import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import pyarrow as pa

IN_MEMORY = 8 * 2**20
"""Bytes of one answer."""
PART = 2**18
Write = Callable[[pa.RecordBatchReader, IO[bytes]], None]


class Body:
    """Bytes that are read once."""

    def __init__(self, rows: pa.RecordBatchReader, write: Write, folder: Path | None = None) -> None:
        """A large one is in a file of that folder, which has no name and ends with this process. None: in memory."""
        most = IN_MEMORY if folder else 0  # 0: it never becomes a file
        self._file = SpooledTemporaryFile(most, dir=str(folder) if folder else None)  # noqa: SIM115 - `parts` closes it
        try:
            write(rows, self._file)
        except BaseException:
            self._file.close()
            raise
        self.num_bytes = self._file.tell()
        self._file.seek(0)

    def parts(self) -> Iterator[bytes]:
        with self._file:
            while part := self._file.read(PART):
                yield part


def write_arrow(rows: pa.RecordBatchReader, to: IO[bytes]) -> None:
    """A stream of Arrow's."""
    with pa.ipc.new_stream(to, rows.schema) as writer:
        for batch in rows:
            writer.write_batch(batch)


def write_json(rows: pa.RecordBatchReader, to: IO[bytes]) -> None:
    """{"columns": [...], "rows": [[...]]}. JSON has no NaN and no infinity: they are the texts "NaN", "Infinity" and
    "-Infinity"."""
    to.write(f'{{"columns": {json.dumps(rows.schema.names)}, "rows": ['.encode())
    is_first = True
    for batch in rows:
        cells = [list(row) for row in zip(*map(_cells, batch.columns), strict=True)]
        if cells:
            text = json.dumps(cells, default=_to_json, allow_nan=False)[1:-1]
            to.write((text if is_first else f", {text}").encode())
            is_first = False
    to.write(b"]}")


def _cells(column: pa.Array) -> list[Any]:
    values: list[Any] = column.to_pylist()
    may_hold_floats = pa.types.is_floating(column.type) or pa.types.is_nested(column.type)
    return [_finite(value) for value in values] if may_hold_floats else values


def _finite(value: Any) -> Any:
    """What JSON has no number for as text, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(held) for held in value]
    return value


def _to_json(value: Any) -> int | str:
    """Whole decimals (a SUM of integers is one) are numbers; other decimals, times and bytes are text."""
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        return int(value)
    return str(value)
