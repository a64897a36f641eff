"""What times a statement asks a view for, so that no more of it is read than that. Where it is not plain, all."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import duckdb
from sqlglot import exp, parse_one

from luthier.platform.sql.sql_dialect import to_duckdb
from luthier.platform.sql.sql_files import fresh_connection, lock

SLACK_MS = 2 * 3_600_000
"""A view's times are the hours that its records are in, and time goes on while a statement is read."""
FOREVER_MS = 2**62

_CONSTANTS = (
    *(exp.Literal, exp.Cast, exp.Interval, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Paren, exp.Var, exp.DataType),
    *(exp.DataTypeParam, exp.CurrentTimestamp, exp.CurrentDate, exp.TimestampTrunc, exp.DateTrunc, exp.AtTimeZone),
)
"""What gives the same wherever it stands in a statement."""
_BELOW, _ABOVE = (exp.LT, exp.LTE), (exp.GT, exp.GTE)


class Times(NamedTuple):
    """A half-open interval, in epoch milliseconds."""

    since: int = 0
    until: int = FOREVER_MS


def times_of(sql: str, view: str, columns: tuple[str, ...]) -> Times:
    """In which those of a view's rows are that WHERE lets through, each time that the view is read."""
    tree = parse_one(to_duckdb(sql), read="duckdb")
    found = [_times(table, columns) for table in tree.find_all(exp.Table) if table.name.upper() == view]
    if not found:
        return Times()
    return Times(min(each.since for each in found), max(each.until for each in found))


def _times(table: exp.Table, columns: tuple[str, ...]) -> Times:
    source = table.parent
    select = source.parent if isinstance(source, exp.From | exp.Join) else None
    where = select.args.get("where") if isinstance(select, exp.Select) else None
    if select is None or where is None:
        return Times()
    times = Times()
    is_alone = not select.args.get("joins") and not select.args.get("laterals")
    for column, since, until in _bounds(where.this):
        is_its = column.table.upper() == table.alias_or_name.upper() or (is_alone and not column.table)
        if is_its and column.name.upper() in columns:
            times = Times(max(times.since, since - SLACK_MS), min(times.until, until + SLACK_MS))
    return times


def _bounds(where: exp.Expr) -> Iterator[tuple[exp.Column, int, int]]:
    """Columns, and between which times each must be, as conditions say that all have to hold."""
    for each in where.flatten() if isinstance(where, exp.And) else (where,):
        condition = each.unnest()
        if isinstance(condition, exp.And):
            yield from _bounds(condition)
        elif isinstance(condition, exp.Between) and isinstance(condition.this, exp.Column):
            low, high = _time(condition.args["low"]), _time(condition.args["high"])
            yield condition.this, low or 0, FOREVER_MS if high is None else high
        elif isinstance(condition, (*_BELOW, *_ABOVE, exp.EQ)):
            yield from _compared(condition)


def _compared(condition: exp.Binary) -> Iterator[tuple[exp.Column, int, int]]:
    left, right = condition.left.unnest(), condition.right.unnest()
    is_turned = isinstance(right, exp.Column)
    column, constant = (right, left) if is_turned else (left, right)
    time = _time(constant)
    if not isinstance(column, exp.Column) or time is None:
        return
    is_above = isinstance(condition, _BELOW if is_turned else _ABOVE)
    is_equal = isinstance(condition, exp.EQ)
    yield column, time if is_above or is_equal else 0, FOREVER_MS if is_above else time


def _time(constant: exp.Expr) -> int | None:
    """In epoch milliseconds; None where it is no constant, or no time."""
    if not all(isinstance(node, _CONSTANTS) for node in constant.walk()):
        return None
    connection = fresh_connection(memory_limit_mb=64)
    with suppress(duckdb.Error):
        lock(connection, [])
        row = connection.execute(f"SELECT epoch_ms(CAST(({constant.sql('duckdb')}) AS TIMESTAMPTZ))").fetchone()
        return None if row is None else row[0]
    return None
