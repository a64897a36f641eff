"""Snowflake's SQL through the native route: the exact shapes that its documentation and clients know."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from luthier.platform.jobs import JobError
from luthier.platform.registry.registry import Registry
from luthier.platform.registry.usage import HOUR_MS
from tests.fakes import EchoEngine
from tests.flow.conftest import SELECT, create, error_of, sql

FINETUNE = "SELECT SNOWFLAKE.CORTEX.FINETUNE"
COMPLETE = "SNOWFLAKE.CORTEX.COMPLETE"
ASK = '[{"role": "user", "content": "how are you"}]'
FORMAT = "{'type': 'json', 'schema': {'type': 'object'}}"
VIEW = "SNOWFLAKE.ACCOUNT_USAGE.CORTEX_FINE_TUNING_USAGE_HISTORY"
JOB_ID = re.compile(r"ft_[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def refused(api: TestClient, statement: str, status: int, code: str) -> str:
    return error_of(api.post("/luthier/v1/sql", json={"statement": statement}), status, code)


def make(api: TestClient, *more: str, model: str = "tuned", query: str = SELECT) -> str:
    arguments = ["'CREATE'", f"'{model}'", "'tiny'", "'{}'".format(query.replace("'", "''")), *more]
    return str(sql(api, f"{FINETUNE}({', '.join(arguments)})"))


def describe(api: TestClient, job_id: str) -> dict[str, object]:
    described: dict[str, object] = json.loads(sql(api, f"{FINETUNE}('DESCRIBE', '{job_id}')"))
    return described


@pytest.mark.parametrize(
    ("more", "validation", "max_epochs"),
    [
        ((), "", 3),
        (("''",), "", 3),
        (("NULL",), "", 3),
        (("NULL", "NULL"), "", 3),
        (("''", "''"), "", 3),
        (("''", "'{\"max_epochs\": 2}'"), "", 2),
        (("NULL", "OBJECT_CONSTRUCT('max_epochs', 2)"), "", 2),
        (("NULL", "{'max_epochs': 2}"), "", 2),
        (("'SELECT question AS prompt, answer AS completion FROM faq LIMIT 1'",), "SELECT", 3),
    ],
)
def test_create(api: TestClient, faq: str, more: tuple[str, ...], validation: str, max_epochs: int) -> None:
    job_id = make(api, *more)
    assert JOB_ID.fullmatch(job_id)
    native = api.get(f"/luthier/v1/jobs/{job_id}").json()
    assert native["options"]["max_epochs"] == max_epochs
    assert str(native["validation_data"])[:6] == validation
    assert native["training_data"] == SELECT


def test_show(api: TestClient, faq: str) -> None:
    assert sql(api, f"{FINETUNE}('SHOW')") == "[]"
    job_id = make(api)
    (row,) = json.loads(sql(api, f"{FINETUNE}('show')"))
    assert row == {"id": job_id, "status": "PENDING", "base_model": "tiny", "created_on": row["created_on"]}
    assert row["created_on"] > 1_700_000_000_000


def test_describe(api: TestClient, faq: str, registry: Registry, train: Callable[[str], Path]) -> None:
    job_id = make(api, "NULL", "OBJECT_CONSTRUCT('max_epochs', 2)")
    pending = describe(api, job_id)
    assert pending == {
        "id": job_id,
        "status": "PENDING",
        "base_model": "tiny",
        "created_on": pending["created_on"],
        "progress": 0.0,
        "training_data": SELECT,
        "validation_data": "",
    }
    train(job_id)
    done = describe(api, job_id)
    assert done == {
        **pending,
        "status": "SUCCESS",
        "progress": 1.0,
        "finished_on": done["finished_on"],
        "model": "LUTHIER.PUBLIC.tuned",
        "trained_tokens": 60,
        "training_result": {"validation_loss": 0.75, "training_loss": 0.5},
    }


def test_describe_an_error(api: TestClient, faq: str, registry: Registry) -> None:
    job_id = make(api)
    registry.jobs.tick()
    registry.jobs.fail(job_id, JobError(code="TRAINING_FAILED", message="The loss is nan."), billable=True)
    described = describe(api, job_id)
    assert described["error"] == {"code": "TRAINING_FAILED", "message": "The loss is nan."}
    assert {"model", "trained_tokens", "training_result"}.isdisjoint(described)


def test_cancel(api: TestClient, faq: str, train: Callable[[str], Path]) -> None:
    job_id = make(api)
    assert sql(api, f"{FINETUNE}('CANCEL', '{job_id}')") == f"Canceled Cortex Fine-tuning job: {job_id}"
    assert describe(api, job_id)["status"] == "CANCELLED"
    done = make(api)
    train(done)
    assert "is SUCCESS" in refused(api, f"{FINETUNE}('CANCEL', '{done}')", 409, "conflict")


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        ("'DELETE', 'x'", 400, "invalid_parameter_value", "unknown operation 'DELETE'"),
        ("NULL", 400, "invalid_parameter_value", "use CREATE, SHOW, DESCRIBE or CANCEL"),
        ("'SHOW', 'x'", 400, "invalid_parameter_value", "takes 1"),
        ("'DESCRIBE'", 400, "invalid_parameter_value", "takes 2"),
        ("'DESCRIBE', NULL", 404, "not_found", "No fine-tuning job ''"),
        ("'CANCEL', 'ft_x'", 404, "not_found", "'ft_x'"),
        ("'CREATE', 'm', 'tiny'", 400, "invalid_parameter_value", "takes 4 to 6 arguments, not 3"),
        ("'CREATE', '', 'tiny', 'SELECT 1'", 400, "invalid_parameter_value", "the name is missing"),
        ("'CREATE', 'm', NULL, 'SELECT 1'", 400, "invalid_parameter_value", "the base model is missing"),
        ("'CREATE', 'm', 'tiny', ''", 400, "invalid_parameter_value", "the training query is missing"),
        ("'CREATE', 'm', 'tiny', 'SELECT 1', '', 'epochs: 3'", 400, "invalid_parameter_value", "not valid JSON"),
        ("'CREATE', 'm', 'tiny', 'SELECT 1', '', '[3]'", 400, "invalid_parameter_value", "JSON object"),
        ("'CREATE', 'm', 'tiny', 'SELECT * FROM faq'", 422, "invalid_training_data", "no column prompt"),
        ("'CREATE', 'm', 'big', 'SELECT 1'", 404, "not_found", "Unknown base model 'big'"),
        ("1, 2, 3, 4, 5, 6, 7", 422, "sql_compilation_error", "FINETUNE takes 1 to 6 arguments"),
    ],
)
def test_finetune_that_is_refused(
    api: TestClient, faq: str, arguments: str, status: int, code: str, words: str
) -> None:
    assert words in refused(api, f"{FINETUNE}({arguments})", status, code)
    assert sql(api, f"{FINETUNE}('SHOW')") == "[]"


def test_complete_with_two_arguments(api: TestClient, tuned: str, engine: EchoEngine) -> None:
    assert sql(api, f"SELECT {COMPLETE}('tiny', 'how are you')") == "base: how are you"
    assert sql(api, f"SELECT {COMPLETE}('{tuned}', 'how are you')") == "LUTHIER.PUBLIC.tuned: how are you"
    assert engine.requests[0].messages == [{"role": "user", "content": "how are you"}]
    assert (engine.requests[0].temperature, engine.requests[0].top_p) == (0.0, 1.0)


def test_complete_with_options(api: TestClient, engine: EchoEngine) -> None:
    history = "[{'role': 'system', 'content': 'be kind'}, {'role': 'user', 'content': 'hello you'}]"
    answer = json.loads(sql(api, f"SELECT {COMPLETE}('tiny', {history}, {{'max_tokens': 2, 'temperature': 0.5}})"))
    assert answer == {
        "choices": [{"messages": "base: hello"}],
        "created": answer["created"],
        "model": "tiny",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }
    request = engine.requests[0]
    assert [message["role"] for message in request.messages or []] == ["system", "user"]
    assert (request.max_tokens, request.temperature) == (2, 0.5)


@pytest.mark.parametrize("options", ["{}", "NULL", "'{}'"])
def test_empty_options_still_give_an_object(api: TestClient, options: str) -> None:
    answer = json.loads(sql(api, f"SELECT {COMPLETE}('tiny', 'plain text', {options})"))
    assert answer["choices"] == [{"messages": "base: plain text"}]


@pytest.mark.parametrize(
    "options", ["{'max_tokens': 2, 'top_p': NULL}", "OBJECT_CONSTRUCT('max_tokens', 2)", "'{\"max_tokens\": 2}'"]
)
def test_options_in_any_spelling(api: TestClient, options: str) -> None:
    answer = json.loads(sql(api, f"SELECT snowflake.cortex.complete('tiny', PARSE_JSON('{ASK}'), {options})"))
    assert answer["choices"] == [{"messages": "base: how"}]


def test_text_is_never_taken_for_a_history(api: TestClient, engine: EchoEngine) -> None:
    sql(api, f"SELECT {COMPLETE}('tiny', '{ASK}', {{}})")
    sql(api, f"SELECT {COMPLETE}('tiny', 12)")
    assert [request.messages for request in engine.requests] == [
        [{"role": "user", "content": ASK}],
        [{"role": "user", "content": "12"}],
    ]


def test_max_tokens_at_its_default_is_what_there_is_room_for(api: TestClient, engine: EchoEngine) -> None:
    sql(api, f"SELECT {COMPLETE}('tiny', 'a', {{'max_tokens': 4096}})")
    assert engine.requests[0].max_tokens is None


def test_complete_with_structured_output(api: TestClient, engine: EchoEngine) -> None:
    ask = '[{"role": "user", "content": "{\\"a\\": 1}"}]'
    shape = "{'type': 'json', 'schema': {'type': 'object', 'properties': {'a': {'type': 'number'}}, 'required': ['a']}}"
    answer = json.loads(sql(api, f"SELECT {COMPLETE}('tiny', PARSE_JSON($${ask}$$), {{'response_format': {shape}}})"))
    assert answer == {
        "created": answer["created"],
        "model": "tiny",
        "structured_output": [{"raw_message": {"a": 1}, "type": "json"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
    }
    schema = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
    assert engine.requests[0].json_schema == schema
    cut = f"SELECT {COMPLETE}('tiny', PARSE_JSON($${ask}$$), {{'response_format': {shape}, 'max_tokens': 1}})"
    message = refused(api, cut, 400, "schema_validation_failed")
    assert "schema validation failed: the answer" in message
    assert "cut at max_tokens" in message


def test_complete_over_a_table(api: TestClient, faq: str) -> None:
    statement = f"SELECT question, {COMPLETE}('tiny', question) AS said FROM faq ORDER BY question"
    answer = api.post("/luthier/v1/sql", json={"statement": statement}).json()
    assert answer["columns"] == ["question", "said"]
    assert answer["rows"] == [[f"question {n}", f"base: question {n}"] for n in range(10)]
    totals = api.get("/luthier/v1/usage/completions", params={"group_by": "function"}).json()["usage"]
    assert [(row["function"], row["records"], row["prompt_tokens"]) for row in totals] == [("COMPLETE", 10, 20)]


def test_null_stays_null_and_costs_nothing(api: TestClient, engine: EchoEngine) -> None:
    assert sql(api, f"SELECT {COMPLETE}('tiny', NULL)") is None
    assert sql(api, f"SELECT {COMPLETE}(NULL, 'a')") is None
    assert engine.requests == []


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        ("'nobody', 'a'", 404, "model_not_found", "unknown model 'nobody'"),
        ("'smollm2-135m', 'a'", 404, "model_not_found", "unknown model: Base model smollm2-135m is not served here"),
        ("'tiny', 'a', {'temperature': 2}", 400, "invalid_parameter_value", "invalid options object: temperature: "),
        ("'tiny', 'a', {'max_tokens': 9000}", 400, "invalid_parameter_value", "invalid options object: max_tokens: "),
        ("'tiny', 'a', {'seed': 1}", 400, "invalid_parameter_value", "invalid options object: seed: "),
        ("'tiny', 'a', [1]", 400, "invalid_parameter_value", "an OBJECT is wanted"),
        ("'tiny', 'a', {'guardrails': true}", 400, "invalid_parameter_value", "guardrails: Cortex Guard"),
        ("'tiny', 'a', {'response_format': {'type': 'xml'}}", 400, "invalid_parameter_value", "response_format.type"),
        (
            "'tiny', 'a', {'response_format': {'type': 'json', 'schema': {'not': {}}}}",
            400,
            "invalid_value",
            "schema validation failed: Invalid 'response_format': a schema is refused: 'not' cannot be kept to (at #)",
        ),
        ("'tiny', [{'role': 'user', 'content': 'a'}]", 400, "invalid_parameter_value", "takes options too"),
        ("'tiny', [{'role': 'tool', 'content': 'a'}], {}", 400, "invalid_parameter_value", "'role': ..., 'content'"),
        ("'tiny', [{'role': 'system', 'content': 'a'}], {}", 400, "invalid_parameter_value", "must be the user's"),
        ("'tiny', {'role': 'user'}, {}", 400, "invalid_parameter_value", "'role': ..., 'content'"),
        ("'tiny', 'a', 'x'", 400, "invalid_parameter_value", "not valid JSON"),
        ("'tiny', [{'role': 'user'}], {}", 400, "invalid_parameter_value", "'role': ..., 'content'"),
        (
            "'tiny', 'a', {'max_tokens': 600}",
            400,
            "context_length_exceeded",
            "max tokens of 512 exceeded: The context window is 512",
        ),
        ("'tiny'", 422, "sql_compilation_error", "takes 2 or 3 arguments"),
    ],
)
def test_complete_that_is_refused(api: TestClient, arguments: str, status: int, code: str, words: str) -> None:
    assert words in refused(api, f"SELECT {COMPLETE}({arguments})", status, code)
    if status != 422:
        assert sql(api, f"SELECT SNOWFLAKE.CORTEX.TRY_COMPLETE({arguments})") is None


def test_an_engine_that_dies(api: TestClient, engine: EchoEngine) -> None:
    engine.dies_after = 1
    assert "inference timed out: The engine stopped" in refused(
        api, f"SELECT {COMPLETE}('tiny', 'a b')", 503, "unavailable"
    )
    (record,) = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert (record["prompt_tokens"], record["completion_tokens"]) == (2, 1)


def test_count_tokens(api: TestClient, tuned: str) -> None:
    assert int(sql(api, "SELECT SNOWFLAKE.CORTEX.COUNT_TOKENS('tiny', 'the quick brown fox')")) > 0
    assert sql(api, "SELECT SNOWFLAKE.CORTEX.COUNT_TOKENS('tiny', NULL)") is None
    told = refused(api, f"SELECT SNOWFLAKE.CORTEX.COUNT_TOKENS('{tuned}', 'a')", 404, "not_found")
    assert told.startswith("unknown model 'tuned'")


@pytest.mark.parametrize(
    "call",
    [
        "SNOWFLAKE.CORTEX.COUNT_TOKENS('smollm2-135m', 'a')",
        "SNOWFLAKE.CORTEX.FINETUNE('CREATE', 'm', 'smollm2-135m', 'SELECT answer prompt, answer completion FROM faq')",
    ],
)
def test_a_base_model_that_is_not_on_the_server(api: TestClient, faq: str, call: str) -> None:
    assert "`luthier base-models fetch smollm2-135m`" in refused(api, f"SELECT {call}", 409, "base_model_not_fetched")


@pytest.mark.parametrize("name", ["AI_COUNT_TOKENS", "snowflake.cortex.ai_count_tokens"])
def test_ai_count_tokens(api: TestClient, name: str) -> None:
    counted = sql(api, "SELECT SNOWFLAKE.CORTEX.COUNT_TOKENS('tiny', 'the quick brown fox')")
    assert sql(api, f"SELECT {name}('ai_complete', 'tiny', 'the quick brown fox') + 1") == counted + 1
    assert sql(api, f"SELECT {name}('ai_complete', 'tiny', NULL)") is None
    for more in ("FALSE", "{}", "NULL", "{'temperature': 0.5}", f"{FORMAT}, FALSE"):
        assert sql(api, f"SELECT {name}('ai_complete', 'tiny', 'the quick brown fox', {more}) + 1") == counted + 1
    for more in ("TRUE", f"{FORMAT}, true", "NULL, TRUE"):
        told = sql(api, f"SELECT {name}('ai_complete', 'tiny', 'the quick brown fox', {more})")
        assert json.loads(told) == {"value": counted, "error": None}
    assert int(sql(api, f"SELECT {name}('ai_complete', 'tiny', 'the quick brown fox', TRUE):value")) == counted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'nobody', 'a'", "unknown model 'nobody'"),
        ("'tuned', 'a'", "unknown model 'tuned'"),
        ("'tiny', 'a', {'temperature': 9}", "invalid options object: temperature"),
        ("'tiny', 'a', {'type': 'xml'}", "invalid options object: type"),
        ("'tiny', 'a', [1]", "invalid options object: an OBJECT is wanted"),
    ],
)
def test_ai_count_tokens_of_a_row_that_fails(api: TestClient, tuned: str, arguments: str, words: str) -> None:
    """NULL, and the other rows are counted."""
    assert sql(api, f"SELECT AI_COUNT_TOKENS('ai_complete', {arguments})") is None
    told = json.loads(sql(api, f"SELECT AI_COUNT_TOKENS('ai_complete', {arguments}, TRUE)"))
    assert told["value"] is None
    assert told["error"].startswith(words)
    one = "SELECT COUNT(AI_COUNT_TOKENS('ai_complete', m, 'a')) FROM (SELECT 'tiny' AS m UNION ALL SELECT 'nobody')"
    assert sql(api, one) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'ai_sentiment', 'a'", "'ai_sentiment' is not counted here; 'ai_complete' is"),
        ("'ai_complete', 'a'", "takes a model, a text"),
        ("'ai_complete', 'a', TRUE", "takes a model, a text"),
        ("'ai_complete', 'tiny', 'a', 1 = 1", "TRUE or FALSE, as it is written"),
    ],
)
def test_ai_count_tokens_that_is_refused(api: TestClient, arguments: str, words: str) -> None:
    assert words in refused(api, f"SELECT AI_COUNT_TOKENS({arguments})", 400, "invalid_parameter_value")


def test_the_usage_view(api: TestClient, tuned: str) -> None:
    create(api, model="still_pending")
    statement = f"SELECT * FROM {VIEW}"
    response = api.post(
        "/luthier/v1/sql", json={"statement": statement}, headers={"Accept": "application/vnd.apache.arrow.stream"}
    )
    assert response.headers["content-type"] == "application/vnd.apache.arrow.stream"
    view = pa.ipc.open_stream(response.content).read_all()
    assert view.column_names == ["START_TIME", "END_TIME", "MODEL_NAME", "TOKEN_CREDITS", "TOKENS"]
    (row,) = view.to_pylist()
    assert (row["MODEL_NAME"], row["TOKENS"], str(row["TOKEN_CREDITS"])) == ("tiny", 60, "0.000006")
    assert int(row["START_TIME"].timestamp() * 1000) % HOUR_MS == 0
    assert (row["END_TIME"] - row["START_TIME"]).total_seconds() * 1000 == HOUR_MS
    assert sql(api, f"SELECT SUM(TOKENS) FROM {VIEW.lower()}") == 60


def test_the_usage_view_of_nothing(api: TestClient) -> None:
    assert sql(api, f"SELECT COUNT(*) FROM {VIEW}") == 0


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("INSERT INTO faq VALUES ('a', 'b')", "INSERT"),
        ("SELECT 1; SELECT 2", "One statement"),
        ("SELECT * FROM nothing", "no table nothing"),
        ("SELECT", ""),
        ("", "empty"),
        ("SELECT nothing FROM faq", "nothing"),
    ],
)
def test_sql_that_is_refused(api: TestClient, faq: str, statement: str, words: str) -> None:
    assert words in refused(api, statement, 422, "sql_compilation_error")


def test_json_answers_keep_every_column_and_type(api: TestClient) -> None:
    statement = "SELECT 1 AS a, 'x' AS b, NULL AS c, 1.5 AS d, DATE '2026-01-02' AS e, 2 AS a"
    answer = api.post("/luthier/v1/sql", json={"statement": statement}).json()
    assert len(answer["columns"]) == 6
    assert answer["rows"] == [[1, "x", None, answer["rows"][0][3], "2026-01-02", 2]]
    assert float(answer["rows"][0][3]) == 1.5
