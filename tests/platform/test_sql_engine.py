"""The locked engine: names, functions, training rows, limits, both fences."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.errors import BadDataset, InvalidInput, InvalidSql, LuthierError, NotFound, Unavailable
from luthier.platform.names import parse_name
from luthier.platform.sql.sql_engine import SqlEngine, SqlFunction, TableFile, ViewQuery
from luthier.platform.tasks import TaskType

USAGE = "SNOWFLAKE.ACCOUNT_USAGE.CORTEX_FINE_TUNING_USAGE_HISTORY"
calls: list[list[list[str | None]]] = []


def record(columns: list[pa.Array]) -> pa.Array:
    """Writes its arguments down and gives back the second."""
    calls.append([column.to_pylist() for column in columns])
    return columns[1] if len(columns) > 1 else columns[0]


def refuse(columns: list[pa.Array]) -> pa.Array:
    raise Unavailable("The model is loading: send it again.")


def break_down(columns: list[pa.Array]) -> pa.Array:
    raise ZeroDivisionError("ours")


FUNCTIONS = {
    function.name: function
    for function in (
        SqlFunction("SNOWFLAKE.CORTEX.COMPLETE", [2, 3], record),
        SqlFunction("SNOWFLAKE.CORTEX.FINETUNE", range(1, 7), record),
        SqlFunction("SNOWFLAKE.CORTEX.REFUSE", [1], refuse),
        SqlFunction("SNOWFLAKE.CORTEX.BREAK_DOWN", [1], break_down),
        SqlFunction("AI_COMPLETE", [2, 3], record, ("model", "prompt", "model_parameters")),
    )
}


def table_file(folder: Path, name: str, rows: pa.Table) -> TableFile:
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    pq.write_table(rows, path)
    return TableFile(parse_name(name, "LUTHIER", "PUBLIC"), path)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    calls.clear()
    rows = pa.table({"prompt": ["a", "b", "c"], "completion": ["x", "y", "z"], "score": [1, 2, 3]})
    tables = [
        table_file(tmp_path, "train", rows),
        table_file(tmp_path, '"quoted lower"', rows.rename_columns(["Prompt", "cOMPLETION", "score"])),
        table_file(tmp_path, 'other."my schema".t', rows.slice(0, 1)),
    ]
    with SqlEngine(
        tables, "LUTHIER", "PUBLIC", functions=FUNCTIONS, held={USAGE: pa.table({"TOKENS": [7]})}, timeout_seconds=20
    ) as opened:
        yield opened


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT * FROM train", 3),
        ("select * from Public.Train;", 3),
        ("SELECT * FROM LUTHIER.PUBLIC.TRAIN", 3),
        ('SELECT * FROM "LUTHIER"."PUBLIC"."TRAIN"', 3),
        ('SELECT * FROM "quoted lower"', 3),
        ('SELECT * FROM other."my schema".t', 1),
        ("SELECT train.prompt FROM train WHERE score > 1", 2),
        ("SELECT * FROM train a JOIN train b ON a.score = b.score", 3),
        ("VALUES (1), (2)", 2),
        (f"SELECT * FROM {USAGE}", 1),
    ],
)
def test_names_resolve(engine: SqlEngine, sql: str, count: int) -> None:
    assert engine.query(sql).read_all().num_rows == count


def test_columns_do_not_run_the_query(engine: SqlEngine) -> None:
    described = engine.described("SELECT prompt AS p, AI_COMPLETE('m', 'x') AS answer FROM train")
    assert described == [("p", "VARCHAR"), ("answer", "VARCHAR")]
    assert calls == []


def test_query_streams_and_leaves_the_engine_free(engine: SqlEngine) -> None:
    reader = engine.query("SELECT i FROM range(100000) t(i)")
    assert reader.read_next_batch().num_rows < 100000
    assert engine.query("SELECT 1 AS a").read_all().to_pylist() == [{"a": 1}]
    assert sum(batch.num_rows for batch in reader) > 50000


def test_cortex_arguments(engine: SqlEngine) -> None:
    sql = "SELECT SNOWFLAKE.CORTEX.COMPLETE('m', [{'role':'user','content':prompt}], {'temperature':0}) AS a FROM train"
    answers = engine.query(sql).read_all()["a"].to_pylist()
    assert answers == [f'[{{"role":"user","content":"{letter}"}}]' for letter in "abc"]
    assert calls == [[["m"] * 3, answers, ['{"temperature":0}'] * 3]]


def test_null_and_odd_texts_reach_the_function(engine: SqlEngine) -> None:
    engine.query("SELECT SNOWFLAKE.CORTEX.COMPLETE('m', NULL), SNOWFLAKE.CORTEX.COMPLETE(NULL, 'q\"\n{}')").read_all()
    assert sorted(calls, key=str) == [[["m"], [None]], [[None], ['q"\n{}']]]


def test_finetune_as_the_python_client_sends_it(engine: SqlEngine) -> None:
    engine.query(
        r"SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE','a','b','SELECT p FROM t WHERE x=\'y\'',"
        r"NULL,OBJECT_CONSTRUCT('max_epochs',3))"
    ).read_all()
    engine.query("SELECT SNOWFLAKE.CORTEX.FINETUNE('SHOW')").read_all()
    query = "SELECT p FROM t WHERE x='y'"
    assert calls == [[["CREATE"], ["a"], ["b"], [query], [None], ['{"max_epochs":3}']], [["SHOW"]]]


def test_arguments_by_name(engine: SqlEngine) -> None:
    engine.query("SELECT AI_COMPLETE(prompt => 'p', model => 'm')").read_all()
    engine.query("SELECT AI_COMPLETE('m', 'p', {'a': [1, TRUE, 'x', NULL]})").read_all()
    assert calls == [[["m"], ["p"], [None]], [["m"], ["p"], ['{"a":[1,true,"x",null]}']]]


def test_nested_calls_run_once_each(engine: SqlEngine) -> None:
    engine.query("SELECT AI_COMPLETE('outer', AI_COMPLETE('inner', 'x'))").read_all()
    assert [call[0] for call in calls] == [["inner"], ["outer"]]


def test_wrong_number_of_arguments(engine: SqlEngine) -> None:
    with pytest.raises(InvalidSql, match="COMPLETE takes 2 or 3 arguments"):
        engine.query("SELECT SNOWFLAKE.CORTEX.COMPLETE('m')").read_all()


def test_errors_of_functions_come_out_as_they_are(engine: SqlEngine) -> None:
    with pytest.raises(Unavailable) as caught:
        engine.query("SELECT SNOWFLAKE.CORTEX.REFUSE(prompt) FROM train").read_all()
    assert caught.value.message == "The model is loading: send it again."
    with pytest.raises(ZeroDivisionError, match="ours"):
        engine.query("SELECT SNOWFLAKE.CORTEX.BREAK_DOWN('x')").read_all()
    with pytest.raises(Unavailable):
        engine.query("SELECT IFF(i < 50000, '', SNOWFLAKE.CORTEX.REFUSE('x')) FROM range(100000) t(i)").read_all()


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT * FROM trian", ["no table trian", "LUTHIER.PUBLIC.TRAIN"]),
        ("SELECT * FROM luthier.public.trian", ["trian", "LUTHIER.PUBLIC.TRAIN"]),
        ("SELECT * FROM nowhere.public.zzzz", ["zzzz"]),
        ("SELECT promt FROM train", ["promt", '"prompt"']),
        ("SELECT prompt::int FROM train", ["'a'"]),
        ("SELECT no_such(1)", ["no_such"]),
        ("SELECT count(*) FROM (SELECT 1", ["does not parse"]),
    ],
)
def test_faults_in_a_line_without_paths(engine: SqlEngine, tmp_path: Path, sql: str, words: list[str]) -> None:
    with pytest.raises(InvalidSql) as caught:
        engine.query(sql).read_all()
    assert all(word in caught.value.message for word in words)
    assert "\n" not in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_fault_that_speaks_of_tables_again_and_again(engine: SqlEngine) -> None:
    """The reason is looked for once, not behind each of them."""
    began = time.thread_time()
    with pytest.raises(InvalidSql):
        engine.query("SELECT error(repeat('Table with name ', 20000))").read_all()
    assert time.thread_time() - began < 2


def test_endless_query_is_stopped(tmp_path: Path) -> None:
    with SqlEngine([], "LUTHIER", "PUBLIC", timeout_seconds=0.3) as engine:
        began = time.monotonic()
        with pytest.raises(InvalidSql, match=r"0\.3 seconds"):
            engine.query("SELECT count(*) FROM range(1000000000000000)").read_all()
        assert time.monotonic() - began < 10
        assert engine.query("SELECT 1 AS a").read_all().num_rows == 1


def test_an_endless_answer_is_stopped_between_its_quick_batches() -> None:
    rows, unwanted = "SELECT * FROM range(1000000000000000)", threading.Event()
    with SqlEngine([], "LUTHIER", "PUBLIC", timeout_seconds=0.3) as engine, pytest.raises(InvalidSql, match="seconds"):
        for _ in engine.query(rows, 10):
            pass
    with SqlEngine([], "LUTHIER", "PUBLIC", timeout_seconds=60, unwanted=unwanted) as engine:
        batches = iter(engine.query(rows, 10))
        next(batches)
        unwanted.set()
        with pytest.raises(InvalidSql, match="Interrupted"):
            next(batches)


def test_memory_limit_is_named(tmp_path: Path) -> None:
    with SqlEngine([], "LUTHIER", "PUBLIC", memory_limit_mb=64) as engine, pytest.raises(InvalidSql, match="64 MB"):
        engine.query("SELECT list(i) FROM range(50000000) t(i)").read_all()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY (SELECT 1) TO 'out.csv'",
        "ATTACH 'other.db' AS o",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "SET memory_limit = '64GB'",
        "EXPORT DATABASE 'out'",
        "SELECT * FROM 'https://example.com/x.parquet'",
        "SELECT * FROM read_csv('https://example.com/x.csv')",
        "SELECT getenv('HOME')",
        "SELECT * FROM no_such_python_variable",
    ],
)
def test_both_fences_hold_alone(engine: SqlEngine, sql: str) -> None:
    with pytest.raises(InvalidSql):
        engine.query(sql).read_all()
    no_such_python_variable = pa.table({"a": [1]})  # DuckDB would read the caller's variables by their names
    assert no_such_python_variable.num_rows == 1
    with pytest.raises(duckdb.Error):
        engine._root.cursor().sql(sql).to_arrow_table()


def test_table_files_are_never_written(engine: SqlEngine, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    path = next(iter(before))
    for sql in (
        f"COPY (SELECT 1 AS a) TO '{path}' (USE_TMP_FILE false)",
        "WITH d AS (DELETE FROM train RETURNING *) SELECT * FROM d",
        f"SELECT * FROM '{path}'",
        f'SELECT * FROM "{path}"',
    ):
        with pytest.raises(InvalidSql):
            engine.query(sql).read_all()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_parts_of_a_name_make_a_path(tmp_path: Path) -> None:
    """DuckDB joins them by dots; a view's reader may not read the files beneath it."""
    folder = tmp_path / "a.b"
    folder.mkdir()
    file = table_file(folder, "t", pa.table({"shown": [1], "kept": [2]})).path
    query = f"SELECT shown FROM read_parquet('{file}')"
    view = ViewQuery(parse_name("v", "LUTHIER", "PUBLIC"), query, (str(file),))
    slashed = table_file(tmp_path, '"a/b"', pa.table({"a": [1]}))
    start, middle, end = str(file).split(".")
    with SqlEngine([slashed], "LUTHIER", "PUBLIC", views=[view]) as engine:
        for name in (f'"{start}"."{middle}"."{end}"', f'"{start}.{middle}"."{end}"', f'""."{start}.{middle}"."{end}"'):
            with pytest.raises(InvalidSql, match="files cannot be read"):
                engine.query(f"SELECT * FROM {name}").read_all()
        assert engine.query("SELECT * FROM v").read_all().column_names == ["shown"]
        assert engine.query('SELECT * FROM luthier.public."a/b"').read_all().num_rows == 1


@pytest.mark.parametrize(
    "call",
    [
        "stats(shown)",
        "main.stats(shown)",
        "vector_type(shown)",
        "pg_get_viewdef(1)",
        "json_serialize_plan('SELECT * FROM v')",
        "json_deserialize_sql('{}')",
    ],
)
def test_no_function_tells_what_a_view_leaves_out(tmp_path: Path, call: str) -> None:
    """A file's statistics are of all its rows, and a plan is of what is beneath."""
    file = table_file(tmp_path, "t", pa.table({"shown": ["a", "left out"]})).path
    query = f"SELECT shown FROM read_parquet('{file}') WHERE shown = 'a'"
    view = ViewQuery(parse_name("v", "LUTHIER", "PUBLIC"), query, (str(file),), is_secure=True)
    with (
        SqlEngine([], "LUTHIER", "PUBLIC", views=[view]) as engine,
        pytest.raises(InvalidSql, match="is not allowed here"),
    ):
        engine.query(f"SELECT {call} AS told FROM v").read_all()


def test_tables_that_cannot_be_opened(tmp_path: Path) -> None:
    rows = pa.table({"a": [1]})
    twins = [table_file(tmp_path, "t", rows), table_file(tmp_path, '"t"', rows)]
    with pytest.raises(InvalidInput, match="differ by case"):
        SqlEngine(twins, "LUTHIER", "PUBLIC")
    with pytest.raises(InvalidInput, match="MEMORY"):
        SqlEngine([table_file(tmp_path, "memory.a.t", rows)], "LUTHIER", "PUBLIC")
    gone = TableFile(parse_name("t", "LUTHIER", "PUBLIC"), tmp_path / "gone.parquet")
    with pytest.raises(NotFound, match=r"LUTHIER\.PUBLIC\.T"):
        SqlEngine([gone], "LUTHIER", "PUBLIC")


CHAT, DPO = TaskType.CHAT_COMPLETION, TaskType.DPO
TURNS = [{"role": "user", "content": 'say "hi"'}, {"role": "assistant", "content": "hi"}]


def test_training_rows_are_two_text_columns(engine: SqlEngine) -> None:
    rows = engine.training_rows('SELECT score AS completion, * EXCLUDE (completion) FROM "quoted lower";', CHAT, 9)
    assert rows.schema == pa.schema([("prompt", pa.string()), ("completion", pa.string())])
    assert rows.to_pylist()[0] == {"prompt": "a", "completion": "1"}


def test_training_rows_of_json_are_plain_text(engine: SqlEngine) -> None:
    sql = 'SELECT PARSE_JSON(\'{"q": "say \\\\"hi\\\\""}\'):q AS PROMPT, {\'a\': 1} AS completion'
    assert engine.training_rows(sql, CHAT, 9).to_pylist() == [{"prompt": 'say "hi"', "completion": '{"a":1}'}]


def test_training_query_runs_once(engine: SqlEngine) -> None:
    sql = "SELECT prompt, AI_COMPLETE('m', prompt) AS completion FROM train"
    assert engine.training_rows(sql, CHAT, 9).num_rows
    assert len(calls) == 1


@pytest.mark.parametrize("task", TaskType)
def test_each_task_has_its_columns(engine: SqlEngine, task: TaskType) -> None:
    """Any case, and other columns beside them."""
    columns = ("MESSAGES", "Prompt", "Response", "text", "chosen", "REJECTED", "id")
    sql = "SELECT " + ", ".join(f"'{name[:1]}' AS {name}" for name in columns)
    expected = {
        TaskType.CHAT_COMPLETION: {"messages": "M"},
        TaskType.INSTRUCTION_FINETUNE: {"prompt": "P", "completion": "R"},
        TaskType.CONTINUED_PRETRAIN: {"text": "t"},
        TaskType.DPO: {"prompt": "P", "chosen": "c", "rejected": "R"},
    }
    assert engine.training_rows(sql, task, 9).to_pylist() == [expected[task]]


@pytest.mark.parametrize(
    "column",
    [
        "[{'role': 'user', 'content': 'say \"hi\"'}, {'role': 'assistant', 'content': 'hi'}]",
        "ARRAY_CONSTRUCT(OBJECT_CONSTRUCT('role', 'user', 'content', 'say \"hi\"'), "
        "OBJECT_CONSTRUCT('role', 'assistant', 'content', 'hi'))",
        "PARSE_JSON('" + json.dumps(TURNS).replace("\\", "\\\\") + "')",
        "'" + json.dumps(TURNS).replace("\\", "\\\\") + "'",
        "list_column",
        "json_column",
    ],
    ids=["literal", "constructed", "parsed", "text", "list", "json text"],
)
def test_messages_in_every_shape_are_the_same_json(tmp_path: Path, column: str) -> None:
    rows = pa.table({"list_column": [TURNS], "json_column": [json.dumps(TURNS)]})
    with SqlEngine([table_file(tmp_path, "t", rows)], "LUTHIER", "PUBLIC") as engine:
        (row,) = engine.training_rows(f"SELECT {column} AS messages FROM t", CHAT, 9).to_pylist()
    assert json.loads(row["messages"]) == TURNS


def test_null_messages_stay_null(tmp_path: Path) -> None:
    rows = pa.table({"messages": pa.array([TURNS, None])})
    with SqlEngine([table_file(tmp_path, "t", rows)], "LUTHIER", "PUBLIC") as engine:
        assert engine.training_rows("SELECT * FROM t", CHAT, 9)["messages"].to_pylist()[1] is None


@pytest.mark.parametrize(
    ("sql", "task", "words"),
    [
        ("SELECT prompt AS question, completion FROM train", CHAT, ["no column prompt", "question, completion"]),
        ("SELECT prompt FROM train", CHAT, ["no column completion", "messages, or prompt and completion"]),
        ("SELECT response FROM (SELECT 1 AS response)", CHAT, ["no column prompt"]),
        ("SELECT prompt, completion FROM train", DPO, ["no column chosen", "DPO wants prompt and chosen and rejected"]),
        ("SELECT prompt FROM train", TaskType.CONTINUED_PRETRAIN, ["no column text"]),
        ("SELECT prompt, completion, 1 AS PROMPT FROM train", CHAT, ["prompt 2 times"]),
        ("SELECT prompt, completion, 1 AS response FROM train", CHAT, ["completion 2 times"]),
        ("SELECT * FROM train WHERE score > 9", CHAT, ["no rows"]),
        ("SELECT * FROM train", CHAT, ["more than 2 rows"]),
    ],
)
def test_bad_training_data(engine: SqlEngine, sql: str, task: TaskType, words: list[str]) -> None:
    for of in ("training", "validation"):
        with pytest.raises(BadDataset) as caught:
            engine.training_rows(sql, task, 2, of)
        assert all(word in caught.value.message for word in (f"The {of} query gives", *words))


@pytest.mark.timeout(60)
def test_rows_without_end_are_not_read(engine: SqlEngine) -> None:
    with pytest.raises(BadDataset, match="more than 100 rows"):
        engine.training_rows("SELECT 'a' AS prompt, 'b' AS completion FROM range(1000000000000)", CHAT, 100)


def test_every_error_is_of_the_family(engine: SqlEngine) -> None:
    with pytest.raises(LuthierError):
        engine.query("SELECT error('stop')").read_all()


def test_times_with_a_zone_come_out(engine: SqlEngine) -> None:
    assert engine.query("SELECT CURRENT_TIMESTAMP() AS now").read_all()["now"].to_pylist()[0].utcoffset() is not None
