"""A batch on the real engines, by OpenAI's client and by the command; and one whose gateway is killed."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from luthier.cli.client import FinetuneJob
from tests.e2e.jobs import FIRST
from tests.e2e.live import BASE, SECONDS, LiveCluster, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CHAT = "/v1/chat/completions"
GATEWAY = "ServeReplica:gateway"


def line(custom_id: str, model: str, prompt: str, **given: Any) -> dict[str, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 16}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {**body, **given}}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in lines).encode()


def results(cluster: LiveCluster, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(text) for text in cluster.openai.files.content(file_id or "").text.splitlines()]


def test_a_batch_by_openais_client(cluster: LiveCluster, first_job: FinetuneJob) -> None:
    lines = [line(prompt, "first", prompt) for prompt in FIRST]
    lines += [line("base", BASE, "the fox"), line("long", BASE, "the fox", max_tokens=510)]
    file = cluster.openai.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    batch_id = cluster.openai.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id
    batch = until(lambda: finished(cluster, batch_id), SECONDS, "the batch")
    assert batch.status == "completed"
    assert batch.request_counts.model_dump() == {"total": len(lines), "completed": len(lines) - 1, "failed": 1}
    answered = results(cluster, batch.output_file_id)
    texts = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in answered}
    assert {prompt: texts[prompt] for prompt in FIRST} == FIRST
    (failed,) = results(cluster, batch.error_file_id)
    assert failed["response"]["body"]["error"]["code"] == "context_length_exceeded"
    told = {each["response"]["request_id"]: each["response"]["body"]["usage"] for each in answered}
    tokens = {name: (usage["prompt_tokens"], usage["completion_tokens"]) for name, usage in told.items()}
    assert billed(cluster, batch_id) == tokens


def test_a_killed_gateway_loses_and_repeats_nothing(cluster: LiveCluster, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl([line(str(at), BASE, "the", max_tokens=400, ignore_eos=True) for at in range(60)]))
    batch_id = json.loads(cluster.run("batches", "create", str(source), "--json").stdout)["id"]
    until(lambda: cluster.client.batches.get(batch_id)["request_counts"]["completed"], SECONDS, "an answer")
    cluster.kill(GATEWAY)
    until(lambda: finished(cluster, batch_id), SECONDS, "the batch")
    paths = cluster.run("batches", "results", batch_id, str(tmp_path)).stdout.split()
    answered = [json.loads(text) for path in paths for text in Path(path).read_text().splitlines()]
    assert [each["custom_id"] for each in answered] == [str(at) for at in range(60)]
    assert set(billed(cluster, batch_id)) == {each["response"]["request_id"] for each in answered}


def billed(cluster: LiveCluster, batch_id: str) -> dict[str, tuple[int, int]]:
    """Tokens in the ledger for each line."""
    usage = [each for each in cluster.client.usage("completions") if each["source_id"].startswith(batch_id)]
    assert len({each["source_id"] for each in usage}) == len(usage)
    return {each["source_id"]: (each["prompt_tokens"], each["completion_tokens"]) for each in usage}


def finished(cluster: LiveCluster, batch_id: str) -> Any:
    """The batch, if it is; None while the gateway is away."""
    try:
        batch = cluster.openai.batches.retrieve(batch_id)
    except (openai.InternalServerError, openai.APIConnectionError):
        return None
    return batch if batch.status in ("completed", "failed") else None
