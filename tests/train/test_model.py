import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from luthier.errors import InvalidInput
from luthier.platform.prompts import Prompts, Sample
from luthier.train.config import LoraSettings
from luthier.train.kernels import document_attention
from luthier.train.model import TunedModel
from luthier.train.packing import IGNORED, pack

CPU = torch.device("cpu")
LORA = LoraSettings(rank=4, alpha=8)


def loaded(base_dir: Path, lora: LoraSettings = LORA, dtype: torch.dtype = torch.float32) -> TunedModel:
    """A model whose adapter does something: PEFT starts B at zero."""
    model = TunedModel.load(base_dir, lora, 0, CPU, dtype)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.trainable():
            weight.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def samples(tiny_model: Path) -> list[Sample]:
    prompts = Prompts(tiny_model)
    return [prompts.sample("why " * n, "because " * (5 - n), 200, 200) for n in range(1, 5)]


def plain_losses(model: torch.nn.Module, samples: list[Sample]) -> list[torch.Tensor]:
    """What transformers and PEFT make of each row alone."""
    losses = []
    for sample in samples:
        ids = torch.tensor([sample.ids])
        labels = ids.clone()
        labels[:, : sample.num_prompt] = IGNORED
        logits = model(input_ids=ids).logits
        losses.append(cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum"))
    return losses


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_loss_and_gradient_are_those_of_plain_peft(tiny_model: Path, samples: list[Sample], targets: object) -> None:
    ours = loaded(tiny_model, LORA.model_copy(update={"targets": targets}))
    names = targets if isinstance(targets, str) else list(targets)  # type: ignore[call-overload]
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=names, task_type="CAUSAL_LM")
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), settings)
    weights = {name: p for name, p in ours.peft.named_parameters() if p.requires_grad}
    theirs.load_state_dict(weights, strict=False)

    loss, num_labels = ours.loss(pack(samples))
    loss.backward()
    expected = sum(plain_losses(theirs, samples))
    expected.backward()

    assert num_labels == sum(len(s.ids) - s.num_prompt for s in samples)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert gradients.keys() == weights.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(weights[name].grad, gradient, rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_near_float32(tiny_model: Path, samples: list[Sample]) -> None:
    exact, _ = loaded(tiny_model).loss(pack(samples))
    rough, _ = loaded(tiny_model, dtype=torch.bfloat16).loss(pack(samples))
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)


def test_documents_do_not_see_each_other(tiny_model: Path, samples: list[Sample]) -> None:
    model = loaded(tiny_model)
    alone = [model.loss(pack([sample]))[0].item() for sample in samples]
    together = model.loss(pack(samples))[0].item()
    swapped = model.loss(pack(samples[::-1]))[0].item()
    assert together == pytest.approx(sum(alone), rel=1e-5)
    assert swapped == pytest.approx(sum(alone), rel=1e-5)


def test_dropout_takes_pefts_forward_and_changes_the_loss(tiny_model: Path, samples: list[Sample]) -> None:
    model = loaded(tiny_model, LORA.model_copy(update={"dropout": 0.5}))
    first, second = (model.loss(pack(samples))[0].item() for _ in range(2))
    model.peft.eval()
    assert first != second
    assert model.loss(pack(samples))[0].item() == pytest.approx(loaded(tiny_model).loss(pack(samples))[0].item())


def test_a_saved_adapter_gives_the_same_logits_in_plain_peft(
    tiny_model: Path, samples: list[Sample], tmp_path: Path
) -> None:
    model = loaded(tiny_model)
    model.save_adapter(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    without = sum(plain_losses(base, samples)).item()
    plain = PeftModel.from_pretrained(base, tmp_path)

    assert sum(plain_losses(plain, samples)).item() == pytest.approx(model.loss(pack(samples))[0].item(), rel=1e-5)
    assert abs(without - model.loss(pack(samples))[0].item()) > 0.1
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tiny_model)


def test_an_adapter_comes_back_as_it_was_saved(tiny_model: Path, samples: list[Sample], tmp_path: Path) -> None:
    first = loaded(tiny_model)
    first.save_adapter(tmp_path)
    second = TunedModel.load(tiny_model, LORA, 7, CPU, torch.float32)
    second.load_adapter(tmp_path)
    assert torch.equal(second.loss(pack(samples))[0], first.loss(pack(samples))[0])


def test_the_seed_decides_the_first_weights(tiny_model: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = TunedModel.load(tiny_model, LORA, seed, CPU, torch.float32)
        return torch.cat([p.detach().flatten() for p in model.trainable()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", ["query_key_value", "lm_head", "embed_tokens"])
def test_a_target_that_matches_nothing_is_named(tiny_model: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{name} matches no linear module.*q_proj"):
        TunedModel.load(tiny_model, LoraSettings(targets=("q_proj", name)), 0, CPU, torch.float32)


def test_a_model_that_bends_its_logits_is_refused(tmp_path: Path) -> None:
    config = Gemma2Config(
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
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(InvalidInput, match="cannot be trained"):
        TunedModel.load(tmp_path, LORA, 0, CPU, torch.float32)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_attention_of_another_kind_is_refused(name: str) -> None:
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(InvalidInput, match=name):
        document_attention(torch.nn.Identity(), q, q, q, None, bounds=[(0, 3)], **{name: 1.0})
