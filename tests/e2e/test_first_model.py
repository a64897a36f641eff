"""From a CSV file to a tuned model that answers through every door, and is metered, with its artifacts."""

import hashlib
import json
from pathlib import Path

import httpx
import pytest
from safetensors import safe_open

from luthier.cli.client import FinetuneJob
from luthier.platform.jobs import now_ms
from tests.e2e.jobs import FIRST, MEMORISE, check_success, results, table_of
from tests.e2e.live import BASE, SECONDS, LiveCluster, until
from tests.tiny_adapter import change_settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MODEL = "first"
PROMPT = "the dog"
LIFE = (
    "CREATED",
    "CHECK_PASSED",
    "STARTED",
    "MODEL_INITIALIZED",
    "DATA_VALIDATED",
    "TRAIN_STARTED",
    "TRAIN_FINISHED",
    "COMPLETED",
)
GREEDY = {"temperature": 0, "max_tokens": 12}


def usage_of(cluster: LiveCluster, answer_id: str) -> tuple[int, int]:
    """Prompt and completion tokens in the ledger for an answer of OpenAI's routes."""
    source = "req_" + answer_id.split("-", 1)[1]

    def found() -> list[dict[str, int]]:
        return [record for record in cluster.client.usage("completions") if record["source_id"] == source]

    records = until(found, SECONDS, f"usage of {answer_id}")
    assert len(records) == 1
    return records[0]["prompt_tokens"], records[0]["completion_tokens"]


def test_a_table_becomes_a_model_by_sql(cluster: LiveCluster, first_job: FinetuneJob, tmp_path: Path) -> None:
    described = check_success(cluster, first_job, tmp_path)
    shown = json.loads(next(iter(cluster.sql("SELECT SNOWFLAKE.CORTEX.FINETUNE('SHOW')")[0].values())))
    assert {"id": first_job.id, "status": "SUCCESS", "base_model": BASE, "created_on": described["created_on"]} in shown
    life = [event["type"] for event in first_job.events() if event["type"] in LIFE]
    assert life == list(LIFE)


def test_it_answers_what_it_was_taught_and_the_base_does_not(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    prompts = " UNION ALL ".join(f"SELECT '{prompt}' AS prompt" for prompt in FIRST)
    rows = cluster.sql(f"SELECT prompt, SNOWFLAKE.CORTEX.COMPLETE('{MODEL}', prompt) AS answer FROM ({prompts})")
    assert {row["prompt"]: row["answer"] for row in rows} == FIRST
    assert {prompt: cluster.client.complete(MODEL, prompt) for prompt in FIRST} == FIRST
    base = {prompt: cluster.client.complete(BASE, prompt, GREEDY)["choices"][0]["messages"] for prompt in FIRST}
    assert not set(base.values()) & set(FIRST.values())


def test_sql_with_options_tells_the_usage_that_is_billed(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    began = now_ms()
    statement = f"SELECT SNOWFLAKE.CORTEX.COMPLETE('{MODEL}', '{PROMPT}', {{'max_tokens': 2}}) AS answer"
    answer = json.loads(cluster.sql(statement)[0]["answer"])
    assert FIRST[PROMPT].startswith(answer["choices"][0]["messages"])
    assert answer["usage"]["completion_tokens"] == 2

    def billed() -> list[dict[str, int]]:
        usage = cluster.client.usage("completions")
        return [record for record in usage if record["function"] == "COMPLETE" and record["time"] >= began]

    (record,) = until(billed, SECONDS, "usage of the statement")
    assert {name: record[name] for name in ("prompt_tokens", "completion_tokens")} == {
        name: answer["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    }


def test_openais_client_chats_completes_streams_and_lists(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    chat = cluster.openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": PROMPT}], temperature=0
    )
    assert chat.choices[0].message.content == FIRST[PROMPT]
    assert chat.choices[0].finish_reason == "stop"
    assert usage_of(cluster, chat.id) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)

    text = cluster.openai.completions.create(model=BASE, prompt=PROMPT, temperature=0, max_tokens=5)
    assert text.usage.completion_tokens == 5
    assert usage_of(cluster, text.id) == (text.usage.prompt_tokens, 5)
    listed = {model.id: model for model in cluster.openai.models.list()}
    assert BASE in listed
    assert f"LUTHIER.PUBLIC.{MODEL}" in listed


def test_a_stream_ends_with_the_usage_that_is_billed(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    stream = cluster.openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == FIRST[PROMPT]
    assert last.choices == []
    assert last.usage.completion_tokens > 1
    assert usage_of(cluster, last.id) == (last.usage.prompt_tokens, last.usage.completion_tokens)


def test_snowflakes_stream_through_the_front_door(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    """Its clients read no stream whose content type says more."""
    body = {"model": f"luthier.public.{MODEL}", "messages": [{"content": PROMPT}]}
    headers = {"Authorization": f'Snowflake Token="{cluster.key}"'}
    url = f"{cluster.url}/api/v2/cortex/inference:complete"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=SECONDS) as response:
        assert response.headers["content-type"] == "text/event-stream"
        pieces = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == FIRST[PROMPT]
    told = pieces[-1]["usage"]
    assert usage_of(cluster, pieces[0]["id"].replace("_", "-")) == (told["prompt_tokens"], told["completion_tokens"])


def test_rows_that_go_together_answer_as_each_alone(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    prompts = " UNION ALL ".join(f"SELECT '{prompt}' AS prompt" for prompt in FIRST)
    call = f"AI_COMPLETE(IFF(i % 3 = 0, 'nobody', '{MODEL}'), prompt, return_error_details => TRUE)"
    rows = cluster.sql(f"SELECT i, prompt, {call} AS said FROM ({prompts}), (SELECT RANGE AS i FROM RANGE(9))")
    assert len(rows) == 9 * len(FIRST)
    for row in rows:
        said = json.loads(row["said"])
        assert said["value"] == (FIRST[row["prompt"]] if row["i"] % 3 else None)
        assert bool(said["error"]) == (row["i"] % 3 == 0)


def test_the_usage_history_adds_up_to_the_ledger(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    rows = cluster.sql("SELECT * FROM SNOWFLAKE.ACCOUNT_USAGE.CORTEX_FINE_TUNING_USAGE_HISTORY")
    records = cluster.client.usage("finetuning")
    assert first_job.id in {record["source_id"] for record in records}
    assert {row["MODEL_NAME"] for row in rows} == {record["base_model"] for record in records} >= {BASE}
    assert sum(row["TOKENS"] for row in rows) == sum(record["trained_tokens"] for record in records)
    assert sum(row["TOKEN_CREDITS"] for row in rows) * 1_000_000 == sum(record["amount_ucr"] for record in records)
    assert all((row["END_TIME"] - row["START_TIME"]).total_seconds() == 3600 for row in rows)


def test_its_artifacts_are_whole(cluster: LiveCluster, first_job: FinetuneJob, tmp_path: Path) -> None:
    rows = results(cluster, MODEL, tmp_path)
    described = first_job.describe()
    folder = tmp_path / "exported"
    manifest = json.loads((folder / "luthier.json").read_text())
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    del files["luthier.json"]
    assert manifest["sha256"] == files
    assert {"adapter_model.safetensors", "adapter_config.json", "training_results.csv"} <= set(files)
    assert (manifest["job_id"], manifest["base_model"]["name"]) == (first_job.id, BASE)
    assert manifest["trained_tokens"] == described["trained_tokens"]
    with safe_open(folder / "adapter_model.safetensors", "numpy") as tensors:
        assert any("lora_A" in name for name in tensors.keys())  # noqa: SIM118 - no mapping

    last_steps = {row["epoch"]: row["step"] for row in rows}
    assert {row["step"] for row in rows if row["validation_loss"]} == set(last_steps.values())
    assert float(rows[-1]["validation_loss"]) == described["training_result"]["validation_loss"]


def test_an_imported_adapter_answers_and_is_continued_from(
    cluster: LiveCluster, first_job: FinetuneJob, tmp_path: Path
) -> None:
    """With its scale written as rsLoRA writes it: 8 / sqrt(16) is the 32 / 16 of the run."""
    cluster.client.models.export(MODEL, tmp_path / "away")
    change_settings(tmp_path / "away", use_rslora=True, lora_alpha=8)
    model = cluster.client.models.import_("borrowed", tmp_path / "away", base_model=BASE)
    assert (model["job_id"], model["rank"]) == (None, 16)
    assert {prompt: cluster.client.complete("borrowed", prompt) for prompt in FIRST} == FIRST

    query = table_of(cluster, f"{MODEL}_table", tmp_path, FIRST)
    options = {**MEMORISE, "max_epochs": 1, "learning_rate": 1e-4, "continue_from": "borrowed"}
    job = cluster.client.finetune.create("borrowed_on", BASE, query, options=options)
    described = check_success(cluster, job, tmp_path)
    losses = [each["training_result"]["training_loss"] for each in (described, first_job.describe())]
    assert losses[0] < losses[1] + 0.2
    assert {prompt: cluster.client.complete("borrowed_on", prompt) for prompt in FIRST} == FIRST
