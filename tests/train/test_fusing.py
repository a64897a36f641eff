"""The faster forwards give what the slower ones give, on the way there and back."""

import copy
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from luthier.train.fusing import Products, Siblings, fuse
from luthier.train.kernels import HEAD_CHUNK, HeadLoss, RmsNorm
from luthier.train.recompute import recomputed

KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def model_with_adapter(bias: bool = False, kind: str = "llama", targets: Any = "all-linear") -> Any:
    torch.manual_seed(0)
    config, causal = KINDS[kind]
    config = config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=bias,
        head_dim=8,
    )
    model = get_peft_model(causal(config), LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    for name, p in model.named_parameters():
        if "lora_B" in name or "norm" in name:
            torch.nn.init.normal_(p.data, 1.0 if "norm" in name else 0.0, 0.1)
    return model


def run(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(input_ids=ids).logits
    logits.square().mean().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "k_proj", "v_proj"], ["q_proj"], ["up_proj"]], ids=str)
def test_a_fused_model_is_the_same_model(bias: bool, is_shared: bool, kind: str, targets: Any) -> None:
    """Qwen3 norms its queries and keys, which are parts of a joined product."""
    plain = model_with_adapter(bias, kind, targets)
    fused = copy.deepcopy(plain)
    fuse(fused, is_shared)
    ids = torch.arange(24).view(2, 12)
    (logits, grads), (expected, expected_grads) = run(fused, ids), run(plain, ids)
    torch.testing.assert_close(logits, expected)
    assert set(grads) == set(expected_grads)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], msg=name)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(fused.state_dict()[name], tensor), name


def test_joined_weights_are_held_once() -> None:
    model = model_with_adapter()
    fuse(model)
    attention = model.get_base_model().model.layers[0].self_attn
    storages = {
        getattr(attention, name).base_layer.weight.untyped_storage().data_ptr() for name in ("q_proj", "v_proj")
    }
    assert len(storages) == 1


def test_siblings_may_be_called_alone_and_again() -> None:
    model = model_with_adapter()
    mlp = model.get_base_model().model.layers[0].mlp
    plain = copy.deepcopy(mlp)
    together = Siblings([mlp.gate_proj, mlp.up_proj], Products())
    first, second = torch.randn(2, 3, 32)
    for x in (first, second, first):
        torch.testing.assert_close(together.forward(mlp.up_proj, x), plain.up_proj(x))
        torch.testing.assert_close(together.forward(mlp.up_proj, x), plain.up_proj(x))
    torch.testing.assert_close(together.forward(mlp.gate_proj, first), plain.gate_proj(first))


class Kept:
    """One of the tensors that a pass keeps for its way back."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_what_a_failed_pass_left_goes_when_the_next_begins(is_recomputed: bool) -> None:
    """It ended between two siblings, of which the first had multiplied for both."""
    model, given = model_with_adapter(), {"input_ids": torch.arange(12).view(1, 12), "use_cache": False}
    fuse(model)
    kept, live = list[weakref.ref[Kept]](), list[int]()
    layers = model.get_base_model().model.layers

    def keep(tensor: Tensor) -> Kept:
        holder = Kept(tensor.detach())
        kept.append(weakref.ref(holder))
        return holder

    def fail(x: Tensor) -> Tensor:
        raise MemoryError

    def count(x: Tensor) -> Tensor:
        live.append(sum(each() is not None for each in kept))
        return torch.nn.functional.silu(x)

    if is_recomputed:
        for layer in layers:
            layer.forward = partial(recomputed, layer.forward)
    layers[1].mlp.act_fn.forward = fail
    with pytest.raises(MemoryError), saved_tensors_hooks(keep, lambda holder: holder.tensor):
        model(**given)
    assert kept
    del layers[1].mlp.act_fn.forward
    layers[0].mlp.act_fn.forward = count
    model(**given)
    assert live == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_and_its_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = LlamaRMSNorm(32).to(dtype).requires_grad_(False)
    norm.weight.normal_(1.0, 0.1)
    x, grad = torch.randn(5, 32, dtype=dtype), torch.randn(5, 32, dtype=dtype)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    out, expected = RmsNorm.apply(ours, norm.weight, norm.variance_epsilon), norm(theirs)
    torch.testing.assert_close(out, expected)
    out.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.02, atol=0.02 if dtype is torch.bfloat16 else 1e-5)


def test_a_norm_of_another_kind_stays_as_it_is() -> None:
    gemma = GemmaRMSNorm(32).requires_grad_(False)
    gemma.variance_epsilon = 1e-6
    both = torch.nn.ModuleList([gemma, LlamaRMSNorm(32).requires_grad_(False)])
    fuse(both)
    assert ["forward" in vars(norm) for norm in both] == [False, True]


@pytest.mark.parametrize("bias", [None, torch.linspace(-1, 1, 50)])
@pytest.mark.parametrize("num", [1, HEAD_CHUNK, HEAD_CHUNK + 3])
def test_the_head_and_its_gradient(num: int, bias: Tensor | None) -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(num, 8), 20 * torch.randn(50, 8), torch.randint(50, (num,))
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    losses = HeadLoss.apply(ours, weight, bias, targets)
    expected = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(theirs, weight, bias), targets, reduction="none"
    )
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    scale = torch.rand(num)
    losses.backward(scale)
    expected.backward(scale)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
