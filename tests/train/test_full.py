"""All weights in training, against transformers' own autograd."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Example, Rendering, render
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType
from luthier.train import kernels
from luthier.train.config import FitConfig
from luthier.train.model import TunedModel
from luthier.train.packing import pack
from luthier.train.publish import copy_tokenizer
from tests.train.plain import CPU, loaded, plain_loss, summed_loss
from tests.train.rows import rows_of


@pytest.fixture
def full(config: FitConfig) -> FitConfig:
    return config.model_copy(update={"method": Method.FULL})


@pytest.fixture(scope="module")
def examples(tiny_model: Path) -> list[Example]:
    return render(rows_of(TaskType.CHAT_COMPLETION, 6), Prompts(tiny_model), Rendering(train_on="all"))


@pytest.fixture
def untied(tiny_model: Path, tmp_path: Path) -> Path:
    """A base model with a head of its own, and biases."""
    settings = LlamaConfig.from_pretrained(tiny_model, tie_word_embeddings=False, attention_bias=True)
    torch.manual_seed(3)
    LlamaForCausalLM(settings).save_pretrained(tmp_path / "untied")
    copy_tokenizer(tiny_model, tmp_path / "untied")
    return tmp_path / "untied"


@pytest.mark.parametrize("chunk", [512, 7])
@pytest.mark.parametrize("is_tied", [True, False])
def test_every_gradient_is_that_of_transformers(
    full: FitConfig, examples: list[Example], untied: Path, is_tied: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "HEAD_CHUNK", chunk)
    config = full if is_tied else full.model_copy(update={"base_dir": untied})
    ours = TunedModel.load(config, CPU)
    theirs = AutoModelForCausalLM.from_pretrained(config.base_dir, dtype=torch.float32)

    loss = summed_loss(ours, examples)
    loss.backward()
    expected = sum(plain_loss(theirs, example) for example in examples)
    expected.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() == ours.named_trainable().keys()
    assert ("lm_head.weight" in gradients) != is_tied
    for name, p in ours.named_trainable().items():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_is_a_base_model_of_its_own(
    full: FitConfig, examples: list[Example], tmp_path: Path, dtype: str
) -> None:
    config = full.model_copy(update={"dtype": dtype})
    model = loaded(config)
    model.save(tmp_path / "saved", model.weights())
    copy_tokenizer(config.base_dir, tmp_path / "saved")

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")

    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == dtype
    assert {p.dtype for p in plain.parameters()} == {getattr(torch, dtype)}
    asked = [{"role": "user", "content": "hi"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert ids == Prompts(config.base_dir).chat(asked)
    within = 1e-5 if dtype == "float32" else 0.1
    with torch.no_grad():
        logits = plain(torch.tensor([ids])).logits
        ours = model.module.eval()(torch.tensor([ids]), bounds=[(0, len(ids))]).logits
    torch.testing.assert_close(logits.float(), ours, rtol=within, atol=within)
    base = AutoModelForCausalLM.from_pretrained(config.base_dir, dtype=torch.float32)
    assert (base(torch.tensor([ids])).logits - ours).abs().max() > 1


def test_weights_in_training_stay_exact_where_the_computation_is_not(full: FitConfig, examples: list[Example]) -> None:
    model = TunedModel.load(full.model_copy(update={"dtype": "bfloat16"}), CPU)
    loss = summed_loss(model, examples)
    loss.backward()
    assert {p.dtype for p in model.trainable()} == {torch.float32}
    assert {p.grad.dtype for p in model.trainable()} == {torch.float32}
    exact = summed_loss(TunedModel.load(full, CPU), examples)
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)
    assert loss != exact


def test_a_tied_head_is_stored_once(full: FitConfig, tmp_path: Path) -> None:
    model = TunedModel.load(full.model_copy(update={"dtype": "bfloat16"}), CPU)
    model.save(tmp_path, model.weights())
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored < 1.1 * 2 * sum(p.numel() for p in model.trainable())


def test_an_empty_pass_gives_no_gradient_but_a_zero_one(full: FitConfig) -> None:
    model = TunedModel.load(full, CPU)
    losses, _ = model.token_losses(pack([]))
    losses.sum().backward()
    assert len(losses) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.trainable())
