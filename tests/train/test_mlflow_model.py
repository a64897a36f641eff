"""A logged model, loaded again as any user of MLflow would load it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.platform.base_models import load_catalog
from luthier.platform.options import Method
from luthier.platform.settings import Settings
from luthier.platform.tasks import TaskType
from luthier.train.mlflow_model import Tuned, log_model
from tests.factories import make_finished

mlflow = pytest.importorskip("mlflow")

REGISTERED = "luthier.TUNED"
CHAT = {"messages": [{"role": "user", "content": "the fox"}], "max_tokens": 3}
PLAIN = {"prompt": "the fox", "max_tokens": 3}


@pytest.fixture
def client(uri: str) -> Iterator[Any]:
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(tracking_uri=uri)
    mlflow.set_tracking_uri(None)


def run_id(client: Any) -> str:
    return client.create_run(client.create_experiment("luthier")).info.run_id


@pytest.fixture
def expected(tiny_model: Path) -> Any:
    """With an adapter that makes a difference."""
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)


def logits(model: Any, tiny_model: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(tiny_model)("the quick brown fox", return_tensors="pt").input_ids
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.parametrize(
    ("method", "task", "asked", "kind"),
    [
        (Method.LORA, TaskType.CHAT_COMPLETION, CHAT, "chat.completion"),
        (Method.FULL, TaskType.INSTRUCTION_FINETUNE, PLAIN, "text_completion"),
    ],
)
def test_what_is_loaded_is_what_was_logged(
    client: Any,
    expected: Any,
    tiny_model: Path,
    settings: Settings,
    tmp_path: Path,
    method: Method,
    task: TaskType,
    asked: dict[str, Any],
    kind: str,
) -> None:
    expected = expected if method is Method.LORA else expected.merge_and_unload()
    expected.save_pretrained(tmp_path / "published")
    made = make_finished(tmp_path / "published", method=method, task_type=task)
    tuned = Tuned(made=made, base=load_catalog(settings).get("tiny"), base_dir=tiny_model)
    run = run_id(client)
    log_model(client, run, tuned, {"learning_rate": "0.1"}, REGISTERED)

    (output,) = client.get_run(run).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.status, logged.params) == ("READY", {"learning_rate": "0.1"})
    pipeline = mlflow.transformers.load_model(f"models:/{REGISTERED}/1")
    torch.testing.assert_close(logits(pipeline.model, tiny_model), logits(expected, tiny_model))
    (answer,) = mlflow.pyfunc.load_model(logged.model_uri).predict(asked)
    assert (answer["object"], answer["usage"]["completion_tokens"]) == (kind, 3)
    assert len(list(Path(logged.artifact_location).rglob("*.safetensors"))) == 1


def test_a_name_gets_one_version_after_another(
    client: Any, expected: Any, tiny_model: Path, settings: Settings, tmp_path: Path
) -> None:
    expected.save_pretrained(tmp_path / "published")
    base = load_catalog(settings).get("tiny")
    tuned = Tuned(made=make_finished(tmp_path / "published"), base=base, base_dir=tiny_model)
    run = run_id(client)
    for name in ("", REGISTERED, REGISTERED):
        log_model(client, run, tuned, {}, name)
    assert [int(each.version) for each in client.search_model_versions(f"name='{REGISTERED}'")] == [2, 1]
    assert len(client.get_run(run).outputs.model_outputs) == 3
