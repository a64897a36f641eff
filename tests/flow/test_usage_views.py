"""The views of SNOWFLAKE.ACCOUNT_USAGE through the HTTP app: columns, types, sums, own account only."""

from typing import Any

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from luthier.platform.access import Caller, hash_key
from luthier.platform.metering import UsageKind
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import HOUR_MS, Selection, columns_of, records_of
from luthier.platform.settings import Settings
from luthier.platform.storage import Storage
from luthier.serve.dialects import view_files
from luthier.serve.dialects.account_usage import AUDIT
from luthier.serve.dialects.usage_files import FILE_VIEWS
from luthier.serve.dialects.usage_views import VIEWS
from tests.factories import ADMIN, make_record
from tests.flow.conftest import sql

pytestmark = pytest.mark.stores

SCHEMA = "SNOWFLAKE.ACCOUNT_USAGE"
NAMES = (*VIEWS, *FILE_VIEWS)
STRANGER_KEY = "lt_stranger"


def view(api: TestClient, statement: str) -> pa.Table:
    headers = {"Accept": "application/vnd.apache.arrow.stream"}
    response = api.post("/luthier/v1/sql", json={"statement": statement}, headers=headers)
    assert response.status_code == 200, response.text
    return pa.ipc.open_stream(response.content).read_all()


def fill(registry: Registry, account: str = "main") -> None:
    """Two statements, of which one goes on in a second hour; two requests of their own; one training."""
    spent: list[dict[str, Any]] = [
        {"source_id": f"req_a{account}-0", "time": 10, "amount_ucr": 5},
        {"source_id": f"req_a{account}-1", "time": HOUR_MS + 10, "amount_ucr": 6},
        {"source_id": f"req_b{account}-12", "function": "AI_COMPLETE", "model": "m", "time": 20},
        {"source_id": f"req_c{account}", "function": "CHAT_COMPLETIONS", "time": 30},
        {"source_id": f"batch_d{account}-7", "function": "CHAT_COMPLETIONS", "time": HOUR_MS * 24},
        {
            "kind": UsageKind.TRAINING,
            "source_id": f"ft_{account}",
            "function": "FINETUNE",
            "trained_tokens": 60,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "time": 40,
        },
    ]
    registry.ledger.append([make_record(**{"account": account, **each}) for each in spent])


def test_all_of_a_view(api: TestClient, registry: Registry) -> None:
    fill(registry)
    for name in NAMES:
        assert view(api, f"select * from {SCHEMA.lower()}.{name.lower()}").num_rows, name


def test_sums_of_functions_by_hour(api: TestClient, registry: Registry) -> None:
    fill(registry)
    rows = view(
        api, f"SELECT * FROM {SCHEMA}.CORTEX_FUNCTIONS_USAGE_HISTORY ORDER BY FUNCTION_NAME, START_TIME"
    ).to_pylist()
    told = [(row["FUNCTION_NAME"], row["MODEL_NAME"], row["TOKENS"], str(row["TOKEN_CREDITS"])) for row in rows]
    assert told == [
        ("AI_COMPLETE", "m", 5, "0.000001"),
        ("COMPLETE", "tiny", 5, "0.000005"),
        ("COMPLETE", "tiny", 5, "0.000006"),
    ]
    after = f"SELECT COUNT(*) FROM {SCHEMA}.CORTEX_FUNCTIONS_USAGE_HISTORY WHERE START_TIME >= '1970-01-01 01:00:00+00'"
    assert sql(api, after) == 1


def test_a_statement_has_one_query_id(api: TestClient, registry: Registry) -> None:
    fill(registry)
    rows = view(api, f"SELECT * FROM {SCHEMA}.CORTEX_FUNCTIONS_QUERY_USAGE_HISTORY ORDER BY QUERY_ID").to_pylist()
    assert [(row["QUERY_ID"], row["TOKENS"]) for row in rows] == [("req_amain", 10), ("req_bmain", 5)]


def test_the_query_id_is_that_of_the_answer(api: TestClient) -> None:
    response = api.post(
        "/luthier/v1/sql", json={"statement": "SELECT AI_COMPLETE('tiny', v) FROM (VALUES ('a'), ('b')) AS t(v)"}
    )
    found = view(api, f"SELECT QUERY_ID, TOKENS FROM {SCHEMA}.CORTEX_FUNCTIONS_QUERY_USAGE_HISTORY").to_pylist()
    assert found == [{"QUERY_ID": response.headers["x-request-id"], "TOKENS": 6}]


def test_ai_functions(api: TestClient, registry: Registry) -> None:
    fill(registry)
    statement = (
        f"SELECT QUERY_ID, IS_COMPLETED, METRICS[0]:value, ROLE_NAMES[0]::VARCHAR, USER_ID, CREDITS"
        f" FROM {SCHEMA}.CORTEX_AI_FUNCTIONS_USAGE_HISTORY ORDER BY START_TIME, QUERY_ID"
    )
    rows = [tuple(map(str, row.values())) for row in view(api, statement).to_pylist()]
    assert rows == [
        ("req_amain", "False", "3", "ACCOUNTADMIN", "admin", "0.000005"),
        ("req_bmain", "True", "3", "ACCOUNTADMIN", "admin", "0.000001"),
        ("req_amain", "True", "3", "ACCOUNTADMIN", "admin", "0.000006"),
    ]


def test_rest_requests_one_by_one(api: TestClient, registry: Registry) -> None:
    fill(registry)
    statement = f"SELECT REQUEST_ID, TOKENS, TOKENS_GRANULAR:output FROM {SCHEMA}.CORTEX_REST_API_USAGE_HISTORY"
    rows = view(api, f"{statement} ORDER BY START_TIME").to_pylist()
    assert [tuple(map(str, row.values())) for row in rows] == [("req_cmain", "5", "2"), ("batch_dmain-7", "5", "2")]


def test_the_region_of_a_request_is_where_it_was_served(api: TestClient, registry: Registry) -> None:
    fill(registry)
    assert sql(api, f"SELECT DISTINCT INFERENCE_REGION FROM {SCHEMA}.CORTEX_REST_API_USAGE_HISTORY") == "local"


def test_columns_are_those_of_the_records(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(registry)
    monkeypatch.setattr("luthier.platform.registry.usage.MAX_PAGE", 2)
    names = ("hour", "source_id", "version", "key", "amount_ucr")
    told = [row for batch in columns_of(registry.usage, ADMIN, names, Selection()) for row in batch.to_pylist()]
    records = list(records_of(registry.usage, ADMIN, Selection()))
    assert told == [{"hour": each.time - each.time % HOUR_MS} | each.model_dump(include=set(names)) for each in records]
    stranger = Caller(account="other", user="u", role="r")
    assert [batch.num_rows for batch in columns_of(registry.usage, stranger, names, Selection())] == [0]


def refused(api: TestClient, statement: str) -> str:
    response = api.post("/luthier/v1/sql", json={"statement": statement})
    assert response.status_code == 422, response.text
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize("name", FILE_VIEWS)
def test_too_many_rows_are_narrowed_by_time(
    api: TestClient, registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, hour = 24 * HOUR_MS, HOUR_MS
    for number in range(7):
        function = "CHAT_COMPLETIONS" if "REST" in name else "COMPLETE"
        registry.ledger.append([make_record(f"req_{number}-0", function=function, time=number * day + hour)])
    monkeypatch.setattr(view_files, "MAX_ROWS", 5)
    monkeypatch.setattr(view_files, "PAGE", 2)
    column = (*FILE_VIEWS[name].times, "")[0]
    told = refused(api, f"SELECT COUNT(*) FROM {SCHEMA}.{name}")
    assert f"{name} has more than 5 rows to be read. " in told
    if not column:
        assert "CORTEX_AI_FUNCTIONS_USAGE_HISTORY has the same by hours" in told
        return
    assert f"WHERE {column} >= " in told
    since = f"SELECT COUNT(*) FROM {SCHEMA}.{name} AS v WHERE v.{column} >= '1970-01-04'"
    assert sql(api, since) == 4
    assert sql(api, f"{since} AND {column} < '1970-01-06'") == 2


def test_a_long_audit_is_narrowed_by_time(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        assert api.post("/luthier/v1/roles", json={"name": f"R{number}"}).status_code == 201
    monkeypatch.setattr(view_files, "MAX_ROWS", 5)
    monkeypatch.setattr("luthier.serve.dialects.snowflake_audit.MAX_PAGE", 2)
    statement = f"SELECT COUNT(*) FROM {SCHEMA}.{AUDIT}"
    assert "WHERE EVENT_TIME >= " in refused(api, statement)
    assert sql(api, f"{statement} WHERE EVENT_TIME < DATEADD(day, -1, CURRENT_TIMESTAMP())") == 0
    monkeypatch.setattr(view_files, "MAX_ROWS", 100)
    assert sql(api, statement) >= 6


def test_no_file_of_a_view_is_left(api: TestClient, registry: Registry, settings: Settings) -> None:
    fill(registry)
    assert view(api, f"SELECT * FROM {SCHEMA}.CORTEX_REST_API_USAGE_HISTORY").num_rows
    refused(api, f"SELECT nothing FROM {SCHEMA}.CORTEX_REST_API_USAGE_HISTORY")
    assert list(Storage(settings.storage).uploads.iterdir()) == []


@pytest.mark.parametrize("name", FILE_VIEWS)
def test_parts_are_one_whole(api: TestClient, registry: Registry, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(registry)
    statement = f"SELECT * FROM {SCHEMA}.{name}"
    whole = sorted(view(api, statement).to_pylist(), key=str)
    for most in ("MAX_PART", "MAX_PAGE"):
        monkeypatch.setattr(f"luthier.platform.registry.usage.{most}", 1)
    monkeypatch.setattr(view_files, "PAGE", 1)
    assert sorted(view(api, statement).to_pylist(), key=str) == whole


def test_metering(api: TestClient, registry: Registry) -> None:
    fill(registry)
    by_hour = view(api, f"SELECT * FROM {SCHEMA}.METERING_HISTORY").to_pylist()
    assert {row["SERVICE_TYPE"] for row in by_hour} == {"AI_SERVICES"}
    assert [row["NAME"] for row in by_hour].count("CORTEX_FINE_TUNING") == 1
    by_day = view(api, f"SELECT * FROM {SCHEMA}.METERING_DAILY_HISTORY ORDER BY USAGE_DATE").to_pylist()
    assert [(str(row["USAGE_DATE"]), str(row["CREDITS_BILLED"])) for row in by_day] == [
        ("1970-01-01", "0.000014"),
        ("1970-01-02", "0.000001"),
    ]
    assert sum(row["CREDITS_USED"] for row in by_hour) == sum(row["CREDITS_BILLED"] for row in by_day)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_sees_another_account(api: TestClient, registry: Registry, name: str) -> None:
    registry.access.add_admin_key("other", hash_key(STRANGER_KEY), "lt_str")
    fill(registry, "other")
    assert sql(api, f"SELECT COUNT(*) FROM {SCHEMA}.{name}") == 0
    headers = {"Authorization": f"Bearer {STRANGER_KEY}"}
    answer = api.post("/luthier/v1/sql", json={"statement": f"SELECT * FROM {SCHEMA}.{name}"}, headers=headers)
    assert answer.json()["rows"]


def test_a_view_that_is_misspelt_is_guessed(api: TestClient) -> None:
    statement = f"SELECT * FROM {SCHEMA}.METERING_HISTROY"
    error = api.post("/luthier/v1/sql", json={"statement": statement}).json()["error"]
    assert f"{SCHEMA}.METERING_HISTORY" in error["message"]


def test_a_page_goes_on_where_the_last_one_ended(registry: Registry) -> None:
    fill(registry)
    numbers: list[int] = []
    while page := registry.usage.page(ADMIN, Selection(), numbers[-1] if numbers else 0, limit=2):
        numbers += [number for number, _ in page]
    assert len(set(numbers)) == 6
    assert registry.usage.page(Caller(account="other", user="u", role="r"), Selection()) == []
