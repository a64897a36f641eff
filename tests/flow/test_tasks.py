"""CREATE and dry run of each task type, over HTTP, by SQL and by the client: from files to what is frozen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

import luthier
from luthier.errors import BadDataset, InvalidInput
from luthier.platform.base_models import load_catalog
from luthier.platform.data.prompts import load_prompts
from luthier.platform.data.recipe import rendering_of
from luthier.platform.data.rendering import num_tokens
from luthier.platform.options import parse_options
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.tasks import TaskType
from luthier.train.data import read_examples
from tests.factories import KEY, make_finished, make_progress
from tests.flow.conftest import create, csv_bytes, error_of, sql, upload

NUM_ROWS = 20
LONG = "zxqv kjw " * 400


def turns(number: int) -> list[dict[str, str]]:
    head = [{"role": "system", "content": "be brief"}] * (number % 2)
    return [*head, {"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": f"a {number}"}]


def given(task: TaskType, number: int) -> dict[str, Any]:
    """A line of a file, with columns that no task has beside those of this one."""
    rows: dict[TaskType, dict[str, Any]] = {
        TaskType.CHAT_COMPLETION: {"messages": turns(number)},
        TaskType.INSTRUCTION_FINETUNE: {"prompt": f"q {number}", "response": f"a {number}"},
        TaskType.CONTINUED_PRETRAIN: {"text": f"a text of number {number} " * (number + 1)},
        TaskType.DPO: {"prompt": f"q {number}", "chosen": f"a {number}", "rejected": "no"},
    }
    return {"id": number, **rows[task], "score": 0.5}


def kept(task: TaskType, number: int) -> dict[str, Any]:
    """The same as it is frozen."""
    row = {name: value for name, value in given(task, number).items() if name not in ("id", "score")}
    return {"completion" if name == "response" else name: value for name, value in row.items()}


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def jsonl_of_text(rows: list[dict[str, Any]]) -> bytes:
    """Conversations as JSON inside of JSON."""
    texts = {"messages": json.dumps}
    return jsonl([{name: texts.get(name, lambda it: it)(value) for name, value in row.items()} for row in rows])


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def frozen(settings: Settings, job_id: str) -> list[dict[str, Any]]:
    """All rows of a job's snapshot; conversations no longer as text."""
    folder = settings.storage / "jobs" / job_id
    rows = [row for name in ("train", "validation") for row in pq.read_table(folder / f"{name}.parquet").to_pylist()]
    parsed = {"messages": json.loads}
    return [{name: parsed.get(name, str)(cell) for name, cell in row.items()} for row in rows]


def same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """But for the order."""
    return sorted(one, key=json.dumps) == sorted(other, key=json.dumps)


@pytest.mark.parametrize(
    ("write", "ending"),
    [(jsonl, "jsonl"), (jsonl_of_text, "ndjson"), (parquet, "parquet")],
    ids=lambda it: str(it)[:20],
)
@pytest.mark.parametrize("task", TaskType)
def test_a_job_of_each_task(
    api: TestClient, settings: Settings, task: TaskType, write: Callable[[list[dict[str, Any]]], bytes], ending: str
) -> None:
    """The tokens that are priced are those that the trainer will read."""
    upload(api, "rows", write([given(task, number) for number in range(NUM_ROWS)]), f"rows.{ending}")
    asked = {"training_data": "SELECT * FROM rows", "options": {"task_type": task.value, "max_epochs": 2}}
    report = create(api, dry_run=True, **asked).json()
    assert api.get("/luthier/v1/jobs").json() == {"jobs": []}
    job = create(api, **asked).json()
    assert {name: job["report"][name] for name in report} == report
    assert (job["options"]["task_type"], report["task_type"], report["faults"]) == (task, task, [])
    assert (report["rows"], report["validation_rows"], report["validation_split"]) == (19, 1, True)
    assert same(frozen(settings, job["id"]), [kept(task, number) for number in range(NUM_ROWS)])

    base = load_catalog(settings).get("tiny")
    how = rendering_of(base, parse_options(asked["options"]))
    prompts = load_prompts(Path(base.source.path))
    examples = read_examples(settings.storage / "jobs" / job["id"] / "train.parquet", prompts, how)
    assert report["tokens"] == sum(map(num_tokens, examples))
    assert report["learned_tokens"] == sum(sample.num_learned for example in examples for sample in example)
    assert report["trained_tokens"] == 2 * report["tokens"]


@pytest.mark.parametrize("task", TaskType)
def test_a_job_of_each_task_by_sql(api: TestClient, settings: Settings, task: TaskType) -> None:
    upload(api, "rows", jsonl([given(task, number) for number in range(NUM_ROWS)]), "rows.jsonl")
    statement = (
        "SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE', 'tuned', 'tiny', 'SELECT * FROM rows WHERE id < 15', "
        f"'SELECT * FROM rows WHERE id >= 15', OBJECT_CONSTRUCT('task_type', '{task}', 'training_duration', '3ba'))"
    )
    job_id = sql(api, statement)
    job = api.get(f"/luthier/v1/jobs/{job_id}").json()
    assert (job["report"]["rows"], job["report"]["validation_rows"], job["report"]["steps"]) == (15, 5, 3)
    assert frozen(settings, job_id) == [kept(task, number) for number in range(NUM_ROWS)]
    assert "options" not in json.loads(sql(api, f"SELECT SNOWFLAKE.CORTEX.FINETUNE('DESCRIBE', '{job_id}')"))


def test_conversations_put_together_in_sql(api: TestClient, faq: str, settings: Settings) -> None:
    query = (
        "SELECT [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}] AS messages FROM faq"
    )
    job = create(api, training_data=query, options={"train_on": "all"}).json()
    assert {
        "messages": [{"role": "user", "content": "question 3"}, {"role": "assistant", "content": "answer 3"}]
    } in frozen(settings, job["id"])


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        ("CHAT_COMPLETION", "1 AS a", ["no column prompt", "messages, or prompt and completion"]),
        ("INSTRUCTION_FINETUNE", "'x' AS messages", ["no column prompt", "prompt and completion"]),
        ("CONTINUED_PRETRAIN", "'x' AS prompt", ["no column text", "Rename one with AS text"]),
        ("DPO", "'x' AS prompt, 'y' AS chosen", ["no column rejected", "prompt and chosen and rejected"]),
    ],
)
def test_columns_that_a_task_misses(api: TestClient, task: str, columns: str, words: list[str]) -> None:
    asked = {"training_data": f"SELECT {columns}", "options": {"task_type": task}}
    for dry_run in (False, True):
        message = error_of(create(api, dry_run=dry_run, **asked), 422, "invalid_training_data")
        assert all(word in message for word in words)


def test_validation_data_of_another_form(api: TestClient, faq: str) -> None:
    query = "SELECT 'a' AS prompt, 'b' AS completion"
    chat = 'SELECT \'[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]\' AS messages'
    message = error_of(create(api, training_data=chat, validation_data=query), 422, "invalid_training_data")
    assert "the columns messages, the validation data prompt, completion" in message
    message = error_of(create(api, training_data=query, validation_data="SELECT 1 AS a"), 422, "invalid_training_data")
    assert message.startswith("The validation query gives no column prompt")


def test_conversations_with_faults(api: TestClient, settings: Settings) -> None:
    rows: list[Any] = [turns(number) for number in range(6)]
    rows[1], rows[3], rows[4] = rows[1][:-1], None, [{"role": "tool", "content": "x"}, *rows[4]]
    upload(api, "rows", jsonl([{"messages": row, "id": number} for number, row in enumerate(rows)]), "rows.jsonl")
    report = create(api, dry_run=True, training_data="SELECT * FROM rows").json()
    assert [(fault["what"], fault["rows"]) for fault in report["faults"]] == [
        ("messages needs a user and an assistant, at least", [2]),
        ("messages is NULL", [4]),
        ("role 'tool' is not system, user or assistant", [5]),
    ]
    assert "row 2" in error_of(create(api, training_data="SELECT * FROM rows"), 422, "invalid_training_data")
    good = create(api, training_data="SELECT * FROM rows WHERE id NOT IN (1, 3, 4)")
    assert good.status_code == 201


@pytest.mark.parametrize(("choice", "counts"), [("truncate", (3, 1, 0)), ("drop", (2, 0, 1))], ids=["truncate", "drop"])
def test_overlong_rows(api: TestClient, settings: Settings, choice: str, counts: tuple[int, int, int]) -> None:
    rows = [("a", "b"), (LONG, "c"), ("d", "e")]
    upload(api, "rows", csv_bytes(rows, ("prompt", "completion")))
    asked = {"training_data": "SELECT * FROM rows", "validation_data": "SELECT * FROM rows WHERE completion = 'b'"}
    job = create(api, **asked, options={"on_overlong": choice}).json()
    assert (job["report"]["rows"], job["report"]["rows_cut"], job["report"]["rows_dropped"]) == counts
    assert len(frozen(settings, job["id"])) == counts[0] + 1
    message = error_of(create(api, **asked, options={"on_overlong": "error"}, model="b"), 422, "invalid_training_data")
    assert "1 of 3 training rows: longer than its prompt or completion share" in message
    assert "(row 2)" in message


def test_a_budget_and_a_time(api: TestClient, faq: str, registry: Registry) -> None:
    whole = create(api, dry_run=True).json()
    assert whole["seconds"] is None
    budget = f"{float(whole['credits']) / 2:.6f}"
    shorten = {"budget_credits": budget, "on_budget": "shorten", "batch_size": 1}
    half = create(api, dry_run=True, options=shorten).json()
    assert 0 < float(half["credits"]) <= float(budget)
    message = error_of(create(api, options={**shorten, "budget_credits": "0"}), 402, "insufficient_credits")
    assert "does not pay for one optimizer step" in message
    for number, (speed, method) in enumerate([(10.0, "lora"), (40.0, "lora"), (99.0, "full")]):
        job_id = create(api, model=f"m{number}", options={"method": method}).json()["id"]
        registry.jobs.tick()
        registry.jobs.report(job_id, make_progress().model_copy(update={"tokens_per_second": speed}))
        registry.jobs.finish(job_id, make_finished())
    tokens = whole["trained_tokens"]
    assert create(api, dry_run=True).json()["seconds"] == [round(tokens / 40), round(tokens / 10)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task_type": "dpo"}, ["task_type = 'dpo'", "'DPO'"]),
        ({"training_duration": "3 epochs"}, ["training_duration = '3 epochs'", "200ba"]),
        ({"batch_size": "many"}, ["batch_size = 'many'", "16_384tok"]),
        ({"batchsize": 8}, ["'batchsize'", "Did you mean batch_size?"]),
        ({"context_length": 513}, ["context_length = 513", "512"]),
        ({"eval_prompts": [LONG]}, ["eval_prompts", "384"]),
        ({"max_epochs": 1, "training_duration": "1ep"}, ["both"]),
        ({"lora_targets": ["q_prj"]}, ["target q_prj matches no linear module", "Do you mean q_proj?", "down_proj"]),
        ({"lora_targets": ["q_proj", "lm_head"]}, ["target lm_head matches no linear module"]),
        ({"continue_from": "nothing"}, ["continue_from = 'nothing'", "No model"]),
        ({"continue_from": "ft_00000000-0000-4000-8000-000000000000"}, ["continue_from", "No fine-tuning job"]),
    ],
    ids=str,
)
def test_options_that_are_refused(api: TestClient, faq: str, options: dict[str, Any], words: list[str]) -> None:
    for dry_run in (False, True):
        response = create(api, dry_run=dry_run, options=options)
        assert response.status_code in (400, 404)
        assert all(word in response.json()["error"]["message"] for word in words), response.text


# text files and folders, by the client


@pytest.fixture
def client(server: str) -> luthier.Client:
    return luthier.Client(server, KEY)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with three texts, one of them deeper, and a file of another kind."""
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("the second text\r\n", newline="")
    (folder / "a.TXT").write_text("\u00e9 the first text", "utf-8")
    (folder / "deep" / "c.txt").write_text("the third text")
    (folder / "notes.md").write_bytes(b"\xff")
    return folder


def test_a_text_file_is_a_table_of_one_text(api: TestClient) -> None:
    table = upload(api, "notes", b"what is\nthis?\n", "notes.txt")
    assert (table["num_rows"], table["columns"]) == (1, ["text"])
    assert sql(api, "SELECT text FROM notes") == "what is\nthis?\n"
    message = error_of(
        api.post("/luthier/v1/tables", params={"name": "bad", "filename": "bad.txt"}, content=b"\xff\xfea\0"),
        400,
        "invalid_parameter_value",
    )
    assert "bad.txt is not UTF-8" in message


def test_a_folder_of_texts_is_one_table(client: luthier.Client, texts: Path) -> None:
    table = client.tables.create("texts", texts)
    assert (table["num_rows"], table["columns"]) == (3, ["file", "text"])
    rows = client.sql("SELECT * FROM texts ORDER BY file").to_pylist()
    assert {row["file"]: row["text"] for row in rows} == {
        "a.TXT": "\u00e9 the first text",
        "b.txt": "the second text\r\n",
        "deep/c.txt": "the third text",
    }


def test_pre_training_on_a_folder_and_on_a_file(client: luthier.Client, texts: Path) -> None:
    options = {"task_type": "CONTINUED_PRETRAIN"}
    report = client.finetune.dry_run("m", "tiny", str(texts), str(texts / "b.txt"), options)
    assert (report["rows"], report["validation_rows"], report["overlap"]["count"]) == (3, 1, 1)
    client.finetune.create("m", "tiny", str(texts), options=options)
    assert len(client.tables.list()) == 2
    (texts / "b.txt").rename(texts / "z.txt")
    client.finetune.dry_run("n", "tiny", str(texts), options=options)
    assert len(client.tables.list()) == 3


def test_folders_that_are_refused(client: luthier.Client, texts: Path, tmp_path: Path) -> None:
    (texts / "deep" / "bad.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InvalidInput, match=r"deep/bad\.txt is not UTF-8 text"):
        client.tables.create("texts", texts)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"empty has no \.txt file"):
        client.finetune.dry_run("m", "tiny", str(tmp_path / "empty"), options={"task_type": "CONTINUED_PRETRAIN"})
    assert client.tables.list() == []


def test_a_file_of_preferences(client: luthier.Client, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(jsonl([given(TaskType.DPO, number) for number in range(5)]))
    job = client.finetune.create("m", "tiny", str(file), options={"task_type": "DPO"})
    assert job.describe()["report"]["task_type"] == "DPO"
    with pytest.raises(BadDataset, match="no column completion"):
        client.finetune.create("n", "tiny", str(file))
