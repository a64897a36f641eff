"""AI_COMPLETE through the native route, by position and by name, as Snowpark 1.56 and snowflake.cortex 2.6 write it."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.platform.sql.sql_engine import SqlEngine
from tests.fakes import EchoEngine
from tests.flow.conftest import error_of, sql

SHAPE = "{'type': 'json', 'schema': {'type': 'object', 'properties': {'a': {'type': 'number'}}}}"

BAD = "schema validation failed: Invalid 'response_format': a schema is refused: "


def rows(api: TestClient, statement: str) -> list[Any]:
    response = api.post("/luthier/v1/sql", json={"statement": statement})
    assert response.status_code == 200, response.text
    return [value for (value,) in response.json()["rows"]]


@pytest.mark.parametrize("name", ["AI_COMPLETE", "ai_complete", "SNOWFLAKE.CORTEX.AI_COMPLETE"])
@pytest.mark.parametrize("arguments", ["'tiny', 'how are you'", "prompt => 'how are you', model => 'tiny'"])
def test_a_prompt_gives_text(api: TestClient, name: str, arguments: str) -> None:
    assert sql(api, f"SELECT {name}({arguments})") == "base: how are you"
    (record,) = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert (record["function"], record["prompt_tokens"], record["completion_tokens"]) == ("AI_COMPLETE", 3, 4)


def test_what_snowpark_writes(api: TestClient) -> None:
    values = """SELECT  *  FROM ( SELECT $1 AS "P" FROM  VALUES ('hello you' :: STRING), ('it\\'s' :: STRING))"""
    assert rows(api, f"""SELECT ai_complete(model => 'tiny', prompt => "P") FROM ( {values})""") == [
        "base: hello you",
        "base: it's",
    ]
    positional = f"""SELECT AI_COMPLETE('tiny', "P", PARSE_JSON('{{"max_tokens": 2}}') :: OBJECT) FROM ( {values})"""
    assert rows(api, positional) == ["base: hello", "base: it's"]


def test_model_parameters(api: TestClient, engine: EchoEngine) -> None:
    given = "{'temperature': 0.5, 'top_p': 0.25, 'max_tokens': 2}"
    assert sql(api, f"SELECT AI_COMPLETE('tiny', 'a b c', {given})") == "base: a"
    sql(api, "SELECT AI_COMPLETE('tiny', 'a')")
    asked = [(each.temperature, each.top_p, each.max_tokens) for each in engine.requests]
    assert asked == [(0.5, 0.25, 2), (0.0, 1.0, None)]


def test_details(api: TestClient) -> None:
    answer = json.loads(sql(api, "SELECT AI_COMPLETE(model => 'tiny', prompt => 'a b', show_details => TRUE)"))
    assert answer == {
        "choices": [{"messages": "base: a b"}],
        "created": answer["created"],
        "model": "tiny",
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }


def test_structured_output(api: TestClient, engine: EchoEngine) -> None:
    call = f"""AI_COMPLETE(model => 'tiny', prompt => '{{"a": 7}}', response_format => {SHAPE}"""
    assert json.loads(sql(api, f"SELECT {call})")) == {"a": 7}
    assert sql(api, f"SELECT {call}):a::int") == 7
    answer = json.loads(sql(api, f"SELECT {call}, show_details => TRUE)"))
    assert answer["structured_output"] == [{"raw_message": {"a": 7}, "type": "json"}]
    assert "choices" not in answer
    assert engine.requests[0].json_schema == {"type": "object", "properties": {"a": {"type": "number"}}}


def test_a_type_literal(api: TestClient, engine: EchoEngine) -> None:
    call = """AI_COMPLETE('tiny', '{"a": 7}', response_format => TYPE OBJECT(a NUMBER))"""
    assert json.loads(sql(api, f"SELECT {call}")) == {"a": 7}
    schema = engine.requests[0].json_schema or {}
    assert (schema["properties"], schema["required"]) == ({"a": {"type": "integer"}}, ["a"])


def test_a_row_that_fails_is_null_and_the_others_go_on(api: TestClient, faq: str) -> None:
    statement = """SELECT AI_COMPLETE(IFF(question = 'question 3', 'nobody', 'tiny'), question{})
        FROM faq WHERE question <= 'question 4' ORDER BY question"""
    said = [f"base: question {number}" for number in range(5)]
    assert rows(api, statement.format("")) == [*said[:3], None, said[4]]
    told = [json.loads(value) for value in rows(api, statement.format(", return_error_details => TRUE"))]
    assert [each["value"] for each in told] == [*said[:3], None, said[4]]
    assert [bool(each["error"]) for each in told] == [False, False, False, True, False]
    assert told[3]["error"].startswith("unknown model 'nobody'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'tiny', 'a', {'temperature': 2}", "invalid options object: temperature: "),
        ("'tiny', 'a', {'guardrails': TRUE}", "guardrails: Cortex Guard"),
        ("'tiny', 'a', {'response_format': {}}", "invalid options object: response_format: "),
        ("'tiny', 'a', {'max_tokens': 600}", "max tokens of 512 exceeded: "),
        ("'tiny', 'a', NULL, {'type': 'json', 'schema': {'not': {}}}", f"{BAD}'not' cannot be kept to"),
        ("'tiny', 'a', NULL, {'type': 'xml'}", "invalid options object: type: "),
        (f"'tiny', 'no json', NULL, {SHAPE}", "schema validation failed: "),
        ("'smollm2-135m', 'a'", "not served here"),
        ("'tiny', [{'role': 'user', 'content': 'a'}]", "invalid prompt object: "),
        ("'tiny', PROMPT('a {1}', 'b')", "invalid prompt object: {1} "),
        ("'tiny', PROMPT('a {0}', NULL)", "invalid prompt object: {0} "),
    ],
)
def test_errors_are_told_where_asked_for(api: TestClient, arguments: str, words: str) -> None:
    assert sql(api, f"SELECT AI_COMPLETE({arguments})") is None
    told = json.loads(sql(api, f"SELECT AI_COMPLETE({arguments}, return_error_details => TRUE)"))
    assert told["value"] is None
    assert words in told["error"]


def test_error_details_of_what_went_well(api: TestClient) -> None:
    told = json.loads(sql(api, "SELECT AI_COMPLETE('tiny', 'a b', {}, NULL, FALSE, TRUE)"))
    assert told == {"value": "base: a b", "error": None}
    call = f"""AI_COMPLETE('tiny', '{{"a": 7}}', {{}}, {SHAPE}, FALSE, TRUE)"""
    assert sql(api, f"SELECT {call}:value:a::int") == 7


def test_a_prompt_object(api: TestClient, faq: str) -> None:
    statement = "SELECT AI_COMPLETE('tiny', PROMPT('{1}: {0}?', question, 1.5)) FROM faq LIMIT 1"
    assert sql(api, statement) == "base: 1.5: question 0?"
    assert json.loads(sql(api, "SELECT PROMPT('a {0}', 'b')")) == {"template": "a {0}", "args": ["b"]}


def test_null_stays_null_and_costs_nothing(api: TestClient, engine: EchoEngine) -> None:
    assert sql(api, "SELECT AI_COMPLETE('tiny', NULL)") is None
    assert sql(api, "SELECT AI_COMPLETE(NULL, 'a', return_error_details => TRUE)") is None
    assert engine.requests == []


@pytest.mark.parametrize("arguments", ["'tiny'", "'tiny', 'a', file => 'b'", "'tiny', 'a', NULL, NULL, TRUE, TRUE, 1"])
def test_other_arguments_are_refused(api: TestClient, arguments: str) -> None:
    response = api.post("/luthier/v1/sql", json={"statement": f"SELECT AI_COMPLETE({arguments})"})
    assert "AI_COMPLETE takes 2 to 6 arguments" in error_of(response, 422, "sql_compilation_error")


def test_a_fault_of_ours_is_no_null(api: TestClient, engine: EchoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(engine, "whole", break_down)
    with pytest.raises(ZeroDivisionError):
        api.post("/luthier/v1/sql", json={"statement": "SELECT AI_COMPLETE('tiny', 'a')"})


def test_many_rows(api: TestClient, engine: EchoEngine) -> None:
    statement = "SELECT AI_COMPLETE('tiny', 'row ' || i) FROM (SELECT RANGE AS i FROM RANGE(500)) ORDER BY i"
    assert rows(api, statement) == [f"base: row {number}" for number in range(500)]
    (total,) = api.get("/luthier/v1/usage/completions", params={"group_by": "function"}).json()["usage"]
    assert (total["records"], total["prompt_tokens"]) == (500, 1000)


def test_functions_are_known_by_any_spelling_of_their_names(api: TestClient) -> None:
    both = """SELECT "SNOWFLAKE".cortex.Complete('tiny', 'a b') || ai_count_tokens('ai_complete', 'tiny', 'a')"""
    assert sql(api, both) == "base: a b1"
    response = api.post("/luthier/v1/sql", json={"statement": "SELECT SNOWFLAKE.CORTEX.COMPLET('tiny', 'a')"})
    assert "complet does not exist" in error_of(response, 422, "sql_compilation_error")


@pytest.mark.parametrize(
    ("statement", "num_made"),
    [("SELECT 1", 0), ("SELECT AI_COMPLETE('tiny', 'a')", 2), ("SELECT AI_COMPLET('tiny', 'a')", 10)],
)
def test_a_statement_has_the_functions_that_it_may_mean(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, statement: str, num_made: int
) -> None:
    """Each costs it milliseconds."""
    made: list[str] = []
    add = SqlEngine._add_function
    monkeypatch.setattr(SqlEngine, "_add_function", lambda *given: (made.append(given[1].name), add(*given)))
    api.post("/luthier/v1/sql", json={"statement": statement})
    assert len(made) == num_made
