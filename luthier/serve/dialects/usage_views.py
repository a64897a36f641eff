"""The views of SNOWFLAKE.ACCOUNT_USAGE: what the ledger says of the caller's own account, in Snowflake's columns.

Here are those that the store adds up; those with a row for each request or statement: usage_files.py.

Columns and types: docs.snowflake.com, ACCOUNT_USAGE views. Here are no warehouses, numbers of users and query tags:
those columns are NULL, and USER_ID is the user's name. A record shows as soon as it is in the ledger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.metering import UsageKind
from luthier.platform.prices import to_credits
from luthier.platform.registry.usage import HOUR_MS, Selection
from luthier.serve.services import Services

SQL_FUNCTIONS = ("COMPLETE", "AI_COMPLETE")
"""Of records made inside a statement of SQL; all others came by a route of their own."""
SERVICE_TYPE = "AI_SERVICES"
NAMES = {
    UsageKind.TRAINING.value: "CORTEX_FINE_TUNING",
    UsageKind.COMPLETION.value: "CORTEX_COMPLETIONS",
    UsageKind.STORAGE.value: "MODEL_STORAGE",
}
TYPES = {
    "TIME": pa.timestamp("ms", tz="UTC"),
    "DATE": pa.date32(),
    "TEXT": pa.string(),
    "NUMBER": pa.int64(),
    "CREDITS": pa.decimal128(38, 6),
    "TRUTH": pa.bool_(),
}
HOURS = "START_TIME TIME, END_TIME TIME"
USED = "CREDITS_USED_COMPUTE CREDITS, CREDITS_USED_CLOUD_SERVICES CREDITS, CREDITS_USED CREDITS"

Row = dict[str, Any]
Rows = Callable[[Services, Caller], list[Row]]


def typed(columns: str) -> pa.Schema:
    """Each with its type, between commas."""
    return pa.schema([(name, TYPES[kind]) for name, kind in map(str.split, columns.split(", "))])


@dataclass(frozen=True)
class View:
    columns: str
    rows: Rows
    """A column that a row lacks is NULL."""

    def table(self, services: Services, caller: Caller) -> pa.Table:
        return pa.Table.from_pylist(self.rows(services, caller), typed(self.columns))


def _fine_tuning(services: Services, caller: Caller) -> list[Row]:
    """By base model and hour of the job's end."""
    sums = services.registry.usage.sums(caller, ["hour", "base_model"], Selection(kind=UsageKind.TRAINING))
    return [{**_hour(row), **_paid(row), "MODEL_NAME": row["base_model"]} for row in sums]


def _functions(services: Services, caller: Caller) -> list[Row]:
    sums = services.registry.usage.sums(caller, ["hour", "function", "model"], _IN_SQL)
    return [{**_hour(row), **_function(row), **_paid(row)} for row in sums]


def _metering(services: Services, caller: Caller) -> list[Row]:
    """By hour and what was used; a day of storage is in its last hour, with the bytes of an average moment."""
    rows = []
    for kind, name in NAMES.items():
        for row in services.registry.usage.sums(caller, ["hour"], Selection(kind=UsageKind(kind))):
            stored = {"BYTES": row["stored_bytes"]} if kind == UsageKind.STORAGE.value else {}
            rows.append({**_hour(row), **_used(row), **stored, "NAME": name})
    return sorted(rows, key=lambda row: (row["START_TIME"], row["NAME"]))


def _metering_daily(services: Services, caller: Caller) -> list[Row]:
    return [
        {
            **_used(row),
            "USAGE_DATE": datetime.fromtimestamp(row["day"] / 1000, UTC).date(),
            "CREDITS_ADJUSTMENT_CLOUD_SERVICES": to_credits(0),
            "CREDITS_BILLED": to_credits(row["amount_ucr"]),
        }
        for row in services.registry.usage.sums(caller, ["day"], Selection())
    ]


_IN_SQL = Selection(kind=UsageKind.COMPLETION, functions=SQL_FUNCTIONS)


def _hour(row: Row) -> Row:
    return {"START_TIME": row["hour"], "END_TIME": row["hour"] + HOUR_MS}


def _function(row: Row) -> Row:
    return {"FUNCTION_NAME": row["function"], "MODEL_NAME": row["model"]}


def _paid(row: Row) -> Row:
    tokens = row["prompt_tokens"] + row["completion_tokens"] + row["trained_tokens"]
    return {"TOKENS": tokens, "TOKEN_CREDITS": to_credits(row["amount_ucr"])}


def _used(row: Row) -> Row:
    used = to_credits(row["amount_ucr"])
    return {
        "SERVICE_TYPE": SERVICE_TYPE,
        "CREDITS_USED_COMPUTE": used,
        "CREDITS_USED_CLOUD_SERVICES": to_credits(0),
        "CREDITS_USED": used,
    }


VIEWS = {
    "CORTEX_FINE_TUNING_USAGE_HISTORY": View(
        f"{HOURS}, MODEL_NAME TEXT, TOKEN_CREDITS CREDITS, TOKENS NUMBER", _fine_tuning
    ),
    "CORTEX_FUNCTIONS_USAGE_HISTORY": View(
        f"{HOURS}, FUNCTION_NAME TEXT, MODEL_NAME TEXT, WAREHOUSE_ID NUMBER, TOKENS NUMBER, TOKEN_CREDITS CREDITS",
        _functions,
    ),
    "METERING_HISTORY": View(
        f"SERVICE_TYPE TEXT, {HOURS}, ENTITY_ID NUMBER, ENTITY_TYPE TEXT, NAME TEXT, DATABASE_ID NUMBER, "
        f"DATABASE_NAME TEXT, SCHEMA_ID NUMBER, SCHEMA_NAME TEXT, {USED}, BYTES NUMBER, ROWS NUMBER, FILES NUMBER",
        _metering,
    ),
    "METERING_DAILY_HISTORY": View(
        f"SERVICE_TYPE TEXT, USAGE_DATE DATE, {USED}, CREDITS_ADJUSTMENT_CLOUD_SERVICES CREDITS, "
        "CREDITS_BILLED CREDITS",
        _metering_daily,
    ),
}
