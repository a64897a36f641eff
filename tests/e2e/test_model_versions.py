"""Versions on a real cluster: warmed by the engine's replica, promoted while requests run, exported whole."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.cli.client import FinetuneJob
from tests.e2e.live import BASE, SECONDS, LiveCluster, until
from tests.tiny_adapter import build_adapter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PROMPT = "the dog"
NAME = "lasting"


@pytest.fixture
def two(cluster: LiveCluster, tiny_model: Path, tmp_path: Path) -> Iterator[str]:
    """A model with two versions that answer differently."""
    models = cluster.client.models
    for seed in (1, 2):
        folder = build_adapter(tiny_model, tmp_path / f"adapter{seed}", seed)
        models.import_(NAME, folder, BASE, new_version=True)
    yield NAME
    models.drop(NAME)


def ask(cluster: LiveCluster, model: str) -> tuple[str, str]:
    """The version that answered, and the answer."""
    messages = [{"role": "user", "content": PROMPT}]
    raw = cluster.openai.chat.completions.with_raw_response.create(
        model=model, messages=messages, temperature=0, max_tokens=8
    )
    return raw.headers["luthier-model-version"], raw.parse().choices[0].message.content


def test_a_promotion_under_load_fails_no_request(cluster: LiveCluster, first_job: FinetuneJob, two: str) -> None:
    models = cluster.client.models
    by_version = dict(ask(cluster, f"{two}@{version}") for version in (1, 2))
    assert by_version["1"] != by_version["2"]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, cluster, two) for _ in range(40)]
        models.promote(two, 2)
        answers += [pool.submit(ask, cluster, two) for _ in range(40)]
        seen = [answer.result() for answer in answers]
    assert all(by_version[version] == text for version, text in seen)
    assert until(lambda: ask(cluster, two)[0] == "2", SECONDS, "the new default")
    models.canary(two, 1, 50)
    assert until(lambda: {ask(cluster, two)[0] for _ in range(8)} == {"1", "2"}, SECONDS, "both versions")
    assert models.rollback(two)["default_version"] == 1
    assert [change["verb"] for change in models.history(two)][-3:] == ["PROMOTE", "SET_CANARY", "ROLLBACK"]


def test_whole_weights_answer_as_the_engine_does(cluster: LiveCluster, first_job: FinetuneJob, tmp_path: Path) -> None:
    cluster.client.models.export("first", tmp_path / "whole", merged=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    messages = [{"role": "user", "content": PROMPT}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**prompt, do_sample=False, max_new_tokens=12)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(made, skip_special_tokens=True) == ask(cluster, "first")[1]
