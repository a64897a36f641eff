"""The views of SNOWFLAKE.ACCOUNT_USAGE: what the ledger says of the caller's own account, in Snowflake's columns.

Columns and types: docs.snowflake.com, ACCOUNT_USAGE views. Here are no warehouses, numbers of users and query tags:
those columns are NULL, and USER_ID is the user's name. A record shows as soon as it is in the ledger.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.metering import UsageKind
from luthier.platform.prices import to_credits
from luthier.platform.registry.ledger import HOUR_MS
from luthier.platform.registry.usage import Selection, UsageReader, records_of

SCHEMA = "SNOWFLAKE.ACCOUNT_USAGE"
SQL_FUNCTIONS = ("COMPLETE", "AI_COMPLETE")
"""Of records made inside a statement of SQL; all others came by a route of their own."""
SERVICE_TYPE = "AI_SERVICES"
NAMES = {
    UsageKind.TRAINING.value: "CORTEX_FINE_TUNING",
    UsageKind.COMPLETION.value: "CORTEX_COMPLETIONS",
    UsageKind.STORAGE.value: "MODEL_STORAGE",
}
TIME, TEXT, NUMBER, CREDITS = pa.timestamp("ms", tz="UTC"), pa.string(), pa.int64(), pa.decimal128(38, 6)
HOUR = {"START_TIME": TIME, "END_TIME": TIME}

Row = dict[str, Any]
Rows = Callable[[UsageReader, Caller], list[Row]]


@dataclass(frozen=True)
class View:
    columns: dict[str, pa.DataType]
    rows: Rows
    """A column that a row lacks is NULL."""

    def table(self, usage: UsageReader, caller: Caller) -> pa.Table:
        return pa.Table.from_pylist(self.rows(usage, caller), pa.schema(list(self.columns.items())))

    def empty(self) -> pa.Table:
        return pa.schema(list(self.columns.items())).empty_table()


def usage_views(usage: UsageReader, caller: Caller, statement: str) -> dict[str, pa.Table]:
    """Those that the statement names; if it names none of a schema that it names, all of them without rows.

    So the error that follows can say which name may have been meant.
    """
    words = set(re.findall(r"\w+", statement.upper()))
    named = {name: view.table(usage, caller) for name, view in VIEWS.items() if name in words}
    if not named and "ACCOUNT_USAGE" in words:
        named = {name: view.empty() for name, view in VIEWS.items()}
    return {f"{SCHEMA}.{name}": table for name, table in named.items()}


def _fine_tuning(usage: UsageReader, caller: Caller) -> list[Row]:
    """By base model and hour of the job's end."""
    sums = usage.sums(caller, ["hour", "base_model"], Selection(kind=UsageKind.TRAINING))
    return [{**_hour(row), **_paid(row), "MODEL_NAME": row["base_model"]} for row in sums]


def _functions(usage: UsageReader, caller: Caller) -> list[Row]:
    sums = usage.sums(caller, ["hour", "function", "model"], _IN_SQL)
    return [{**_hour(row), **_function(row), **_paid(row)} for row in sums]


def _queries(usage: UsageReader, caller: Caller) -> list[Row]:
    sums = usage.sums(caller, ["query", "function", "model"], _IN_SQL)
    return [{**_function(row), **_paid(row), "QUERY_ID": row["query"]} for row in sums]


def _ai_functions(usage: UsageReader, caller: Caller) -> list[Row]:
    """For each hour of a query, by function and model; it is complete in the last hour that it was billed in."""
    sums = usage.sums(caller, ["hour", "query", "function", "model", "user", "role"], _IN_SQL)
    last: dict[str, int] = {}
    for row in sums:
        last[row["query"]] = max(row["hour"], last.get(row["query"], 0))
    return [
        {
            **_hour(row),
            **_function(row),
            "QUERY_ID": row["query"],
            "ROLE_NAMES": [row["role"]],
            "USER_ID": row["user"],
            "METRICS": _metrics(row),
            "CREDITS": to_credits(row["amount_ucr"]),
            "IS_COMPLETED": row["hour"] == last[row["query"]],
        }
        for row in sums
    ]


def _rest(usage: UsageReader, caller: Caller) -> list[Row]:
    """One row a request: START_TIME and END_TIME are the hour in which it ended."""
    return [
        {
            **_hour({"hour": record.time - record.time % HOUR_MS}),
            "REQUEST_ID": record.source_id,
            "MODEL_NAME": record.model,
            "TOKENS": record.tokens,
            "TOKENS_GRANULAR": json.dumps({"input": record.prompt_tokens, "output": record.completion_tokens}),
            "USER_ID": record.user,
        }
        for record in records_of(usage, caller, Selection(kind=UsageKind.COMPLETION, but=SQL_FUNCTIONS))
    ]


def _metering(usage: UsageReader, caller: Caller) -> list[Row]:
    """By hour and what was used; a day of storage is in its last hour, with the bytes of an average moment."""
    rows = []
    for kind, name in NAMES.items():
        for row in usage.sums(caller, ["hour"], Selection(kind=UsageKind(kind))):
            stored = {"BYTES": row["stored_bytes"]} if kind == UsageKind.STORAGE.value else {}
            rows.append({**_hour(row), **_used(row), **stored, "NAME": name})
    return sorted(rows, key=lambda row: (row["START_TIME"], row["NAME"]))


def _metering_daily(usage: UsageReader, caller: Caller) -> list[Row]:
    return [
        {
            **_used(row),
            "USAGE_DATE": datetime.fromtimestamp(row["day"] / 1000, UTC).date(),
            "CREDITS_ADJUSTMENT_CLOUD_SERVICES": to_credits(0),
            "CREDITS_BILLED": to_credits(row["amount_ucr"]),
        }
        for row in usage.sums(caller, ["day"], Selection())
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


def _metrics(row: Row) -> list[str]:
    counts = {"input": row["prompt_tokens"], "output": row["completion_tokens"]}
    named = [{"key": {"metric": name, "unit": "tokens"}, "value": value} for name, value in counts.items()]
    return [json.dumps(each) for each in named]  # objects are JSON here, in an array too


_FUNCTION = {"FUNCTION_NAME": TEXT, "MODEL_NAME": TEXT}
_JSON = pa.json_(pa.string())
_USED = {"CREDITS_USED_COMPUTE": CREDITS, "CREDITS_USED_CLOUD_SERVICES": CREDITS, "CREDITS_USED": CREDITS}

VIEWS = {
    "CORTEX_FINE_TUNING_USAGE_HISTORY": View(
        {**HOUR, "MODEL_NAME": TEXT, "TOKEN_CREDITS": CREDITS, "TOKENS": NUMBER}, _fine_tuning
    ),
    "CORTEX_FUNCTIONS_USAGE_HISTORY": View(
        {**HOUR, **_FUNCTION, "WAREHOUSE_ID": NUMBER, "TOKENS": NUMBER, "TOKEN_CREDITS": CREDITS}, _functions
    ),
    "CORTEX_FUNCTIONS_QUERY_USAGE_HISTORY": View(
        {**_FUNCTION, "QUERY_ID": TEXT, "TOKENS": NUMBER, "TOKEN_CREDITS": CREDITS, "WAREHOUSE_ID": TEXT}, _queries
    ),
    "CORTEX_AI_FUNCTIONS_USAGE_HISTORY": View(
        {
            **HOUR,
            **_FUNCTION,
            "QUERY_ID": TEXT,
            "WAREHOUSE_ID": NUMBER,
            "ROLE_NAMES": pa.list_(TEXT),
            "QUERY_TAG": TEXT,
            "USER_ID": TEXT,
            "METRICS": pa.list_(TEXT),
            "CREDITS": CREDITS,
            "IS_COMPLETED": pa.bool_(),
        },
        _ai_functions,
    ),
    "CORTEX_REST_API_USAGE_HISTORY": View(
        {
            **HOUR,
            "REQUEST_ID": TEXT,
            "MODEL_NAME": TEXT,
            "TOKENS": NUMBER,
            "TOKENS_GRANULAR": _JSON,
            "USER_ID": TEXT,
            "INFERENCE_REGION": TEXT,
        },
        _rest,
    ),
    "METERING_HISTORY": View(
        {
            "SERVICE_TYPE": TEXT,
            **HOUR,
            **dict.fromkeys(("ENTITY_ID",), NUMBER),
            **dict.fromkeys(("ENTITY_TYPE", "NAME"), TEXT),
            "DATABASE_ID": NUMBER,
            "DATABASE_NAME": TEXT,
            "SCHEMA_ID": NUMBER,
            "SCHEMA_NAME": TEXT,
            **_USED,
            **dict.fromkeys(("BYTES", "ROWS", "FILES"), NUMBER),
        },
        _metering,
    ),
    "METERING_DAILY_HISTORY": View(
        {
            "SERVICE_TYPE": TEXT,
            "USAGE_DATE": pa.date32(),
            **_USED,
            "CREDITS_ADJUSTMENT_CLOUD_SERVICES": CREDITS,
            "CREDITS_BILLED": CREDITS,
        },
        _metering_daily,
    ),
}
