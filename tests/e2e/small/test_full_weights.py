"""A model with weights of its own: loaded when it is asked, unloaded when it is not."""

import json
import os
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.jobs import FIRST, MEMORISE, check_success, table_of
from tests.e2e.live import BASE, SECONDS, LiveCluster, until
from tests.e2e.test_first_model import usage_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

FULL = {**MEMORISE, "method": "full", "learning_rate": 0.003}


def test_it_is_loaded_to_answer_and_unloaded_when_idle(cluster: LiveCluster, tmp_path: Path) -> None:
    query = table_of(cluster, "first_table", tmp_path)
    described = check_success(cluster, cluster.client.finetune.create("whole", BASE, query, options=FULL), tmp_path)
    assert described["model"].endswith("whole")
    assert full_models(cluster) == {}

    chat = cluster.openai.chat.completions.create(
        model="whole", messages=[{"role": "user", "content": "the fox"}], temperature=0, timeout=SECONDS
    )
    assert chat.choices[0].message.content == FIRST["the fox"]
    assert usage_of(cluster, chat.id) == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    assert {prompt: cluster.client.complete("whole", prompt) for prompt in FIRST} == FIRST
    assert {prompt: cluster.client.complete(BASE, prompt) for prompt in FIRST} != FIRST
    (name,) = full_models(cluster)
    assert name.startswith(f"full-{BASE}-")

    assert cluster.client.models.get("whole")["proof"]["state"] == "proved"

    until(lambda: full_models(cluster) == {name: 0}, SECONDS, "no replica")
    (weights,) = (cluster.home / "storage" / "adapters").glob("*/model.safetensors")
    damage(weights)
    with pytest.raises(openai.ConflictError, match=r"model\.safetensors is not what was published") as caught:
        cluster.openai.chat.completions.create(
            model="whole", messages=[{"role": "user", "content": "a"}], timeout=SECONDS
        )
    assert caught.value.code == "adapter_refused"
    assert cluster.client.complete(BASE, "the fox")
    assert cluster.client.models.get("whole")["proof"]["state"] == "refused"
    until(lambda: full_models(cluster) == {}, SECONDS, "no application")


def damage(file: Path) -> None:
    """Its last byte is another."""
    with file.open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        (last,) = weights.read(1)
        weights.seek(-1, os.SEEK_END)
        weights.write(bytes([last ^ 1]))


def full_models(cluster: LiveCluster) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(cluster.run("status", "--json").stdout)["full_models"]
    return told
