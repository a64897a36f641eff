"""The views of SNOWFLAKE.ACCOUNT_USAGE against Snowflake's own pages: each column by its name, place and type."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from luthier.platform.metering import UsageKind
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import HOUR_MS
from luthier.serve.dialects.usage_files import FILE_VIEWS
from luthier.serve.dialects.usage_views import VIEWS
from tests.factories import make_record
from tests.flow.test_usage_views import SCHEMA, fill, view

TIME, NUMBER, TEXT, ARRAY, OBJECT, BOOLEAN, DATE = (
    *("TIMESTAMP_LTZ", "NUMBER", "VARCHAR", "ARRAY", "OBJECT", "BOOLEAN", "DATE"),
)
HOURS = {"START_TIME": TIME, "END_TIME": TIME}
FUNCTION = {"FUNCTION_NAME": TEXT, "MODEL_NAME": TEXT}
USED = dict.fromkeys(("CREDITS_USED_COMPUTE", "CREDITS_USED_CLOUD_SERVICES", "CREDITS_USED"), NUMBER)
SNOWFLAKE = {
    "CORTEX_FINE_TUNING_USAGE_HISTORY": {**HOURS, "MODEL_NAME": TEXT, "TOKEN_CREDITS": NUMBER, "TOKENS": NUMBER},
    "CORTEX_FUNCTIONS_USAGE_HISTORY": {
        **HOURS,
        **FUNCTION,
        "WAREHOUSE_ID": NUMBER,
        "TOKENS": NUMBER,
        "TOKEN_CREDITS": NUMBER,
    },
    "CORTEX_FUNCTIONS_QUERY_USAGE_HISTORY": {
        **FUNCTION,
        "QUERY_ID": TEXT,
        "TOKENS": NUMBER,
        "TOKEN_CREDITS": NUMBER,
        "WAREHOUSE_ID": TEXT,
    },
    "CORTEX_AI_FUNCTIONS_USAGE_HISTORY": {
        **HOURS,
        **FUNCTION,
        "QUERY_ID": TEXT,
        "WAREHOUSE_ID": NUMBER,
        "ROLE_NAMES": ARRAY,
        "QUERY_TAG": TEXT,
        "USER_ID": TEXT,
        "METRICS": ARRAY,
        "CREDITS": NUMBER,
        "IS_COMPLETED": BOOLEAN,
    },
    "CORTEX_REST_API_USAGE_HISTORY": {
        **HOURS,
        "REQUEST_ID": TEXT,
        "MODEL_NAME": TEXT,
        "TOKENS": NUMBER,
        "TOKENS_GRANULAR": OBJECT,
        "USER_ID": TEXT,
        "INFERENCE_REGION": TEXT,
    },
    "METERING_HISTORY": {
        "SERVICE_TYPE": TEXT,
        **HOURS,
        "ENTITY_ID": NUMBER,
        "ENTITY_TYPE": TEXT,
        "NAME": TEXT,
        "DATABASE_ID": NUMBER,
        "DATABASE_NAME": TEXT,
        "SCHEMA_ID": NUMBER,
        "SCHEMA_NAME": TEXT,
        **USED,
        "BYTES": NUMBER,
        "ROWS": NUMBER,
        "FILES": NUMBER,
    },
    "METERING_DAILY_HISTORY": {
        "SERVICE_TYPE": TEXT,
        "USAGE_DATE": DATE,
        **USED,
        "CREDITS_ADJUSTMENT_CLOUD_SERVICES": NUMBER,
        "CREDITS_BILLED": NUMBER,
    },
}
"""As docs.snowflake.com has them in the ACCOUNT_USAGE pages. In Arrow an OBJECT is the text of its JSON."""
NOON = int(datetime(2026, 11, 22, 12, 30, tzinfo=UTC).timestamp()) * 1000


def snowflake_type(field: pa.Field) -> str:
    """Of a column as the SQL door answers it."""
    kind = field.type
    if pa.types.is_timestamp(kind):
        assert kind.tz == "UTC"
        return TIME
    names = {
        NUMBER: pa.types.is_integer(kind) or pa.types.is_decimal(kind),
        TEXT: pa.types.is_string(kind),
        ARRAY: pa.types.is_list(kind),
        BOOLEAN: pa.types.is_boolean(kind),
        DATE: pa.types.is_date(kind),
    }
    return next(name for name, is_it in names.items() if is_it)


@pytest.mark.parametrize("name", SNOWFLAKE)
@pytest.mark.parametrize("is_filled", [True, False])
def test_columns_are_snowflakes(api: TestClient, registry: Registry, name: str, is_filled: bool) -> None:
    if is_filled:
        fill(registry)
    table = view(api, f"SELECT * FROM {SCHEMA}.{name}")
    told = {column: TEXT if kind == OBJECT else kind for column, kind in SNOWFLAKE[name].items()}
    assert [(field.name, snowflake_type(field)) for field in table.schema] == list(told.items())
    for column in (column for column, kind in SNOWFLAKE[name].items() if kind == OBJECT):
        assert all(set(json.loads(text)) == {"input", "output"} for text in table[column].to_pylist())
    assert bool(table.num_rows) is is_filled


def test_these_are_all(api: TestClient) -> None:
    assert set(SNOWFLAKE) == {*VIEWS, *FILE_VIEWS}


@pytest.mark.parametrize("name", [name for name, columns in SNOWFLAKE.items() if "START_TIME" in columns])
def test_hours_are_whole_and_in_utc(api: TestClient, registry: Registry, name: str) -> None:
    """Whatever the session's time zone, a timestamp means one moment."""
    kinds = {UsageKind.TRAINING: "FINETUNE", UsageKind.COMPLETION: "COMPLETE"}
    registry.ledger.append(
        [make_record(f"req_{kind}-0", kind=kind, function=by, time=NOON) for kind, by in kinds.items()]
    )
    registry.ledger.append([make_record("req_rest", function="CHAT_COMPLETIONS", time=NOON)])
    rows = view(api, f"SELECT DISTINCT START_TIME, END_TIME FROM {SCHEMA}.{name}").to_pylist()
    began = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert rows == [{"START_TIME": began, "END_TIME": began + timedelta(milliseconds=HOUR_MS)}]


def test_each_kind_of_usage_is_metered_under_its_name(api: TestClient, registry: Registry) -> None:
    """All of it is an AI service: Snowflake has no service type for storage of models."""
    for kind in UsageKind:
        registry.ledger.append([make_record(f"x_{kind}", kind=kind, time=NOON, stored_bytes=7 * (kind == "storage"))])
    rows = view(api, f"SELECT SERVICE_TYPE, NAME, BYTES FROM {SCHEMA}.METERING_HISTORY").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("AI_SERVICES", "CORTEX_COMPLETIONS", None),
        ("AI_SERVICES", "CORTEX_FINE_TUNING", None),
        ("AI_SERVICES", "MODEL_STORAGE", 7),
    ]
