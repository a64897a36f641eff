import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from luthier.errors import InvalidInput
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Example, Rendering, render
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType
from luthier.platform.weights.lora import LoraSettings
from luthier.train.attention import document_attention
from luthier.train.config import FitConfig
from luthier.train.model import TunedModel
from luthier.train.packing import pack
from tests.train.plain import CPU, loaded, plain_loss, summed_loss
from tests.train.rows import rows_of


@pytest.fixture(scope="module")
def examples(tiny_model: Path) -> list[Example]:
    rows = [{"prompt": "why " * n, "completion": "because " * (5 - n)} for n in range(1, 5)]
    return render(rows, Prompts(tiny_model), Rendering())


@pytest.fixture(scope="module")
def conversations(tiny_model: Path) -> list[Example]:
    return render(rows_of(TaskType.CHAT_COMPLETION, 5), Prompts(tiny_model), Rendering(train_on="all"))


def plain_peft(base_dir: Path, lora: LoraSettings) -> Any:
    names = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names, task_type="CAUSAL_LM")
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32), settings)


@pytest.mark.parametrize("kind", ["examples", "conversations"])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_loss_and_gradient_are_those_of_plain_peft(
    config: FitConfig, request: pytest.FixtureRequest, targets: Any, kind: str
) -> None:
    rows: list[Example] = request.getfixturevalue(kind)
    config = config.model_copy(update={"lora": LoraSettings(rank=4, alpha=8, targets=targets)})
    ours, theirs = loaded(config), plain_peft(config.base_dir, config.lora)
    theirs.load_state_dict(ours.named_trainable(), strict=False)

    losses, documents = ours.token_losses(pack(rows))
    losses.sum().backward()
    expected = sum(plain_loss(theirs, example) for example in rows)
    expected.backward()

    assert len(losses) == sum(example[0].num_learned for example in rows)
    assert documents.bincount().tolist() == [example[0].num_learned for example in rows]
    torch.testing.assert_close(losses.sum(), expected, rtol=1e-4, atol=1e-4)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert gradients.keys() == ours.named_trainable().keys()
    for name, p in ours.named_trainable().items():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_near_float32(config: FitConfig, examples: list[Example]) -> None:
    exact = summed_loss(loaded(config), examples)
    rough = summed_loss(loaded(config.model_copy(update={"dtype": "bfloat16"})), examples)
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)


def test_documents_do_not_see_each_other(config: FitConfig, examples: list[Example]) -> None:
    model = loaded(config)
    alone = [summed_loss(model, [example]).item() for example in examples]
    assert summed_loss(model, examples).item() == pytest.approx(sum(alone), rel=1e-5)
    assert summed_loss(model, examples[::-1]).item() == pytest.approx(sum(alone), rel=1e-5)


def test_dropout_takes_pefts_forward_and_changes_the_loss(config: FitConfig, examples: list[Example]) -> None:
    model = loaded(config.model_copy(update={"lora": LoraSettings(rank=4, alpha=8, dropout=0.5)}))
    first, second = (summed_loss(model, examples).item() for _ in range(2))
    model.module.eval()
    assert first != second
    assert summed_loss(model, examples).item() == pytest.approx(summed_loss(loaded(config), examples).item())


def test_a_saved_adapter_gives_the_same_loss_in_plain_peft(
    config: FitConfig, examples: list[Example], tmp_path: Path
) -> None:
    model = loaded(config)
    model.save(tmp_path, model.weights())
    ours = summed_loss(model, examples).item()
    base = AutoModelForCausalLM.from_pretrained(config.base_dir, dtype=torch.float32)
    without = sum(plain_loss(base, example) for example in examples).item()
    plain = PeftModel.from_pretrained(base, tmp_path)

    assert sum(plain_loss(plain, example) for example in examples).item() == pytest.approx(ours, rel=1e-5)
    assert abs(without - ours) > 0.1
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(config.base_dir)


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_weights_come_back_as_they_were_taken(config: FitConfig, examples: list[Example], method: Method) -> None:
    config = config.model_copy(update={"method": method})
    first, second = loaded(config), TunedModel.load(config.model_copy(update={"seed": 7}), CPU)
    assert not torch.equal(summed_loss(second, examples), summed_loss(first, examples))
    second.take(first.weights())
    assert torch.equal(summed_loss(second, examples), summed_loss(first, examples))


def test_the_seed_decides_the_first_weights(config: FitConfig) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = TunedModel.load(config.model_copy(update={"seed": seed}), CPU)
        return torch.cat([p.detach().flatten() for p in model.trainable()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["query_key_value", "lm_head", "embed_tokens"])
def test_a_target_that_matches_nothing_is_named(config: FitConfig, name: str) -> None:
    wrong = config.model_copy(update={"lora": LoraSettings(targets=("q_proj", name))})
    with pytest.raises(InvalidInput, match=rf"{name} matches no linear module.*q_proj"):
        TunedModel.load(wrong, CPU)


def test_a_base_in_four_bits_is_refused_without_a_gpu(config: FitConfig) -> None:
    with pytest.raises(InvalidInput, match=r"qlora needs a GPU.*Use method lora"):
        TunedModel.load(config.model_copy(update={"method": Method.QLORA}), CPU)


def test_a_model_that_bends_its_logits_is_refused(config: FitConfig, tmp_path: Path) -> None:
    bent = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        attn_logit_softcapping=None,
        final_logit_softcapping=0.01,
    )
    Gemma2ForCausalLM(bent).save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be trained"):
        TunedModel.load(config.model_copy(update={"base_dir": tmp_path}), CPU)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_attention_of_another_kind_is_refused(name: str) -> None:
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(InvalidInput, match=name):
        document_attention(torch.nn.Identity(), q, q, q, None, bounds=[(0, 3)], **{name: 1.0})
