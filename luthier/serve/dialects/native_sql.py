"""The native API on SQL: a statement, and its rows as Arrow or as JSON."""

import json
import math
from decimal import Decimal
from typing import Any

import pyarrow as pa
from fastapi import Request, Response

from luthier.platform.wire import RunSql
from luthier.serve.deps import ServicesOf, SessionOf
from luthier.serve.dialects.snowflake_sql import run_sql
from luthier.serve.json_route import JsonRouter

ARROW_STREAM = "application/vnd.apache.arrow.stream"

routes = JsonRouter()


@routes.post("/sql")
async def sql(request: Request, body: RunSql, session: SessionOf, services: ServicesOf) -> Response:
    """One statement. Arrow IPC stream if asked for by `Accept`, else {"columns": [...], "rows": [[...]]}.

    JSON has no NaN and no infinity: they are the texts "NaN", "Infinity" and "-Infinity".
    """
    table = await run_sql(services, session, body.statement, request.scope)
    if ARROW_STREAM in request.headers.get("accept", ""):
        return Response(_to_arrow(table), media_type=ARROW_STREAM)
    columns = [_cells(column) for column in table.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    text = json.dumps({"columns": table.column_names, "rows": rows}, default=_to_json, allow_nan=False)
    return Response(text, media_type="application/json")


def _cells(column: pa.ChunkedArray) -> list[Any]:
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


def _to_arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
