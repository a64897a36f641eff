"""The CPU products against a plain loop over tokens."""

import inspect

import pytest
import torch

from luthier.serve import cpu_lora

SLOTS, RANK, IN, OUT = 3, 8, 16, 24
TOKEN_SLOTS = [1, 1, -1, -1, 2, 0, 0, 0, -1]


@pytest.fixture
def weights() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(SLOTS, 1, RANK, IN), torch.randn(SLOTS, 1, OUT, RANK)


@pytest.fixture
def metadata() -> tuple[object, ...]:
    slots, lengths = torch.tensor(TOKEN_SLOTS).unique_consecutive(return_counts=True)
    starts = torch.cumsum(lengths, 0) - lengths
    return starts, lengths, slots, len(slots), int(lengths.max()), len(TOKEN_SLOTS)


def test_each_token_gets_its_own_adapter_and_no_adapter_changes_nothing(weights, metadata) -> None:
    a, b = weights
    x, base = torch.randn(len(TOKEN_SLOTS), IN), torch.randn(len(TOKEN_SLOTS), OUT)
    low, out = torch.empty(len(TOKEN_SLOTS), RANK), base.clone()
    cpu_lora.sgmv_shrink(x, a, low, *metadata, 0.5)
    cpu_lora.sgmv_expand_slice(low, b, out, *metadata, 0, OUT, True)
    for token, slot in enumerate(TOKEN_SLOTS):
        added = 0.5 * (b[slot, 0] @ (a[slot, 0] @ x[token])) if slot >= 0 else torch.zeros(OUT)
        torch.testing.assert_close(out[token], base[token] + added, rtol=1e-4, atol=1e-4)


def test_a_slice_leaves_the_other_columns_alone(weights) -> None:
    _, b = weights
    low, base = torch.randn(len(TOKEN_SLOTS), RANK), torch.randn(len(TOKEN_SLOTS), 2 * OUT)
    out = base.clone()
    cpu_lora.bgmv_expand_slice(low, b, out, torch.tensor(TOKEN_SLOTS), OUT, OUT, add_inputs=False)
    torch.testing.assert_close(out[:, :OUT], base[:, :OUT])
    torch.testing.assert_close(out[4, OUT:], b[2, 0] @ low[4])
    assert not out[2, OUT:].any()


@pytest.mark.parametrize("name", ["bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"])
def test_they_can_be_called_as_vllm_calls_its_own(name) -> None:
    ops = pytest.importorskip("vllm.lora.ops.torch_ops.lora_ops")
    theirs, ours = (list(inspect.signature(getattr(module, name)).parameters) for module in (ops, cpu_lora))
    assert ours == theirs


def test_vllm_uses_them(monkeypatch) -> None:
    punica_cpu = pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
    monkeypatch.setattr(punica_cpu, "sgmv_shrink", None)
    cpu_lora.register()
    assert punica_cpu.sgmv_shrink is cpu_lora.sgmv_shrink
