"""A run that begins with another's weights."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from luthier.errors import InvalidInput
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Rendering, render
from luthier.platform.options import Duration, Method, Unit
from luthier.platform.tasks import TaskType
from luthier.platform.weights.adapter_files import WEIGHTS
from luthier.platform.weights.lora import LoraSettings
from luthier.train.config import FitConfig, StepRecord
from luthier.train.loading import build
from luthier.train.loop import evaluate, train
from luthier.train.model import TunedModel
from tests.tiny_adapter import build_adapter
from tests.train.conftest import for_task
from tests.train.local import Local, alone, silent_run
from tests.train.plain import CPU, plain_loss, summed_loss
from tests.train.test_base_shapes import FAMILIES


def ended_at(history: list[StepRecord]) -> float:
    loss = history[-1].validation_loss
    assert loss is not None
    return loss


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_a_run_begins_where_the_other_ended(config: FitConfig, tmp_path: Path, method: Method) -> None:
    config = config.model_copy(update={"method": method, "learning_rate": 2e-3})
    first = Local(tmp_path / "first")
    ended = ended_at(train(config, first.worker))
    from_the_start, _ = evaluate(silent_run(config))
    second = config.model_copy(update={"continue_from": first.folder / "15" / "model", "job_id": "ft_2", "seed": 5})

    assert evaluate(silent_run(second))[0] == pytest.approx(ended, abs=1e-4)
    assert from_the_start > ended + 0.2
    assert ended_at(alone(second)) < ended


def test_preference_holds_on_to_the_model_it_continues_from(config: FitConfig, tmp_path: Path) -> None:
    first = Local(tmp_path / "first")
    train(config, first.worker)
    dpo = for_task(config, TaskType.DPO).model_copy(update={"continue_from": first.folder / "15" / "model"})
    assert alone(dpo)[0].training_loss == pytest.approx(0.693147, abs=1e-4)


def test_an_adapter_with_the_old_names_of_what_sees(config: FitConfig, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(FAMILIES["gemma3-seeing"]).save_pretrained(base)
    adapter = build_adapter(base, tmp_path / "adapter", target_modules=["gate_proj"])
    own = load_file(adapter / WEIGHTS)
    old = {name.replace("model.language_model.", "language_model.model."): each for name, each in own.items()}
    assert old.keys() != own.keys()
    save_file(old, adapter / WEIGHTS)
    lora = LoraSettings(rank=8, alpha=16, targets=("gate_proj",))
    run = config.model_copy(update={"base_dir": base, "continue_from": adapter, "lora": lora})
    loaded = get_peft_model_state_dict(build(run, CPU, torch.float32))
    assert all(torch.equal(loaded[name], weight) for name, weight in own.items())


@pytest.fixture
def ended(config: FitConfig, tmp_path: Path) -> Path:
    """The adapter of a run."""
    run = Local(tmp_path / "first")
    train(config.model_copy(update={"duration": Duration(num=1, unit=Unit.BATCHES)}), run.worker)
    return run.folder / "1" / "model"


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (LoraSettings(rank=8, alpha=8), "has rank 4. Give lora_rank = 4"),
        (LoraSettings(rank=4, alpha=8, targets=("q_proj",)), "lora_targets = .*Give lora_targets = "),
        (LoraSettings(rank=4, alpha=16), "is scaled by 8 / 4. Give lora_alpha = 8"),
    ],
)
def test_an_adapter_of_another_shape_or_scale_is_refused(
    config: FitConfig, ended: Path, lora: LoraSettings, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        silent_run(config.model_copy(update={"continue_from": ended, "lora": lora}))


@pytest.mark.parametrize("settings", [{"lora_alpha": 8}, {"lora_alpha": 4, "use_rslora": True}], ids=str)
def test_a_run_begins_with_an_adapter_of_plain_peft(
    config: FitConfig, tmp_path: Path, settings: dict[str, object]
) -> None:
    """Its logits are those of PEFT's own loading, and it learns on."""
    folder = build_adapter(config.base_dir, tmp_path / "foreign", r=4, **settings)
    ours = TunedModel.load(config.model_copy(update={"continue_from": folder}), CPU)
    base = AutoModelForCausalLM.from_pretrained(config.base_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, folder)
    (example,) = render([{"prompt": "the fox", "completion": " is quick"}], Prompts(config.base_dir), Rendering())
    torch.testing.assert_close(summed_loss(ours, [example]), plain_loss(theirs, example), rtol=1e-5, atol=1e-5)

    started = config.model_copy(update={"continue_from": folder, "learning_rate": 2e-3})
    assert ended_at(alone(started)) < evaluate(silent_run(started))[0] - 0.05


def test_an_adapter_on_some_layers_is_refused(config: FitConfig, tmp_path: Path) -> None:
    targets = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
    folder = build_adapter(config.base_dir, tmp_path / "foreign", r=4, lora_alpha=8, **targets)
    lora = LoraSettings(rank=4, alpha=8, targets=("q_proj",))
    with pytest.raises(InvalidInput, match="changes only some of the base model's modules"):
        silent_run(config.model_copy(update={"continue_from": folder, "lora": lora}))
