"""The views of SNOWFLAKE.ACCOUNT_USAGE with a row for each request or statement; the others: usage_views.py.

Columns and types: docs.snowflake.com, ACCOUNT_USAGE views.
"""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from luthier.platform.access import Caller
from luthier.platform.metering import UsageKind
from luthier.platform.prices import to_credits
from luthier.platform.registry.usage import HOUR_MS, GroupBy, Selection, columns_of, sums_of
from luthier.platform.sql.sql_times import Times
from luthier.serve.dialects.usage_views import HOURS, SQL_FUNCTIONS, typed
from luthier.serve.dialects.view_files import FileView, Row, by_pages, by_time
from luthier.serve.services import Services

START_END = ("START_TIME", "END_TIME")
_OF_REQUEST = {
    "START_TIME": "hour",
    "REQUEST_ID": "source_id",
    "MODEL_NAME": "model",
    "INPUT": "prompt_tokens",
    "OUTPUT": "completion_tokens",
    "USER_ID": "user",
}
_OF_STATEMENT: tuple[GroupBy, ...] = ("hour", "query", "function", "model", "user", "role")
_ASKED = typed(f"{HOURS}, REQUEST_ID TEXT, MODEL_NAME TEXT, INPUT NUMBER, OUTPUT NUMBER, USER_ID TEXT")


def _requests(services: Services, caller: Caller, times: Times) -> Iterator[pa.RecordBatch]:
    """START_TIME and END_TIME are the hour in which it ended."""
    of = Selection(kind=UsageKind.COMPLETION, but=SQL_FUNCTIONS, since=times.since, until=times.until)
    for batch in columns_of(services.registry.usage, caller, list(_OF_REQUEST.values()), of):
        found = {name: batch.column(column) for name, column in _OF_REQUEST.items()}
        found["END_TIME"] = pc.add(found["START_TIME"], HOUR_MS)
        yield pa.record_batch([found[field.name].cast(field.type) for field in _ASKED], _ASKED)


def _statements(services: Services, caller: Caller, times: Times) -> Iterator[Row]:
    """By hours, some in parts. To know which is a statement's last hour, what comes later is read too."""
    of = Selection(kind=UsageKind.COMPLETION, functions=SQL_FUNCTIONS, since=times.since)
    for row in sums_of(services.registry.usage, caller, _OF_STATEMENT, of):
        yield {
            **_hour(row["hour"]),
            "FUNCTION_NAME": row["function"],
            "MODEL_NAME": row["model"],
            "QUERY_ID": row["query"],
            "USER_ID": row["user"],
            "ROLE_NAME": row["role"],
            "INPUT": row["prompt_tokens"],
            "OUTPUT": row["completion_tokens"],
            "CREDITS": to_credits(row["amount_ucr"]),
        }


def _hour(start: int) -> Row:
    return {"START_TIME": start, "END_TIME": start + HOUR_MS}


def _metric(name: str) -> str:
    """Objects are JSON here, in an array too."""
    return f"""'{{"key": {{"metric": "{name.lower()}", "unit": "tokens"}}, "value": ' || SUM({name}) || '}}'"""


_KEPT = typed(
    f"{HOURS}, FUNCTION_NAME TEXT, MODEL_NAME TEXT, QUERY_ID TEXT, USER_ID TEXT, ROLE_NAME TEXT, "
    "INPUT NUMBER, OUTPUT NUMBER, CREDITS CREDITS"
)

FILE_VIEWS = {
    "CORTEX_REST_API_USAGE_HISTORY": FileView(
        kept=_ASKED,
        batches=_requests,
        select="""
            SELECT START_TIME, END_TIME, REQUEST_ID, MODEL_NAME, INPUT + OUTPUT AS TOKENS,
                CAST('{"input": ' || INPUT || ', "output": ' || OUTPUT || '}' AS JSON) AS TOKENS_GRANULAR,
                USER_ID, {region} AS INFERENCE_REGION
            FROM {rows}""",
        times=START_END,
        narrow=by_time("START_TIME"),
    ),
    "CORTEX_FUNCTIONS_QUERY_USAGE_HISTORY": FileView(
        kept=_KEPT,
        batches=by_pages(_statements, _KEPT),
        select="""
            SELECT FUNCTION_NAME, MODEL_NAME, QUERY_ID, CAST(SUM(INPUT + OUTPUT) AS BIGINT) AS TOKENS,
                CAST(SUM(CREDITS) AS DECIMAL(38, 6)) AS TOKEN_CREDITS, CAST(NULL AS VARCHAR) AS WAREHOUSE_ID
            FROM {rows} GROUP BY FUNCTION_NAME, MODEL_NAME, QUERY_ID""",
        narrow="It has no times: CORTEX_AI_FUNCTIONS_USAGE_HISTORY has the same by hours.",
    ),
    "CORTEX_AI_FUNCTIONS_USAGE_HISTORY": FileView(
        kept=_KEPT,
        batches=by_pages(_statements, _KEPT),
        select=f"""
            SELECT START_TIME, END_TIME, FUNCTION_NAME, MODEL_NAME, QUERY_ID, CAST(NULL AS BIGINT) AS WAREHOUSE_ID,
                [ROLE_NAME] AS ROLE_NAMES, CAST(NULL AS VARCHAR) AS QUERY_TAG, USER_ID,
                [{_metric("INPUT")}, {_metric("OUTPUT")}] AS METRICS,
                CAST(SUM(CREDITS) AS DECIMAL(38, 6)) AS CREDITS,
                START_TIME = MAX(START_TIME) OVER (PARTITION BY QUERY_ID) AS IS_COMPLETED
            FROM {{rows}}
            GROUP BY START_TIME, END_TIME, FUNCTION_NAME, MODEL_NAME, QUERY_ID, USER_ID, ROLE_NAME""",
        times=START_END,
        narrow=by_time("START_TIME"),
    ),
}
"""By the last part of their names."""
