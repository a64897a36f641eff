"""The CPU products against a plain loop over tokens."""

import inspect

import pytest
import torch

from luthier.serve.adapters.cpu_lora import Turned, add_product, batch_of, parts, register

SLOTS, RANK, IN, OUT = 3, 8, 16, 24
TOGETHER = [1, 1, -1, -1, 2, 0, 0, 0, -1]
MIXED = [2, -1, 0, 2, 0, 0, -1, 1, 2]
LAYOUT = (7, 8, 9)
Weights = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def weights() -> Weights:
    torch.manual_seed(0)
    return torch.randn(SLOTS, 1, RANK, IN), torch.randn(SLOTS, 1, OUT, RANK)


def add(out: torch.Tensor, x: torch.Tensor, weights: Weights, slots: list[int]) -> None:
    a, b = weights
    add_product(out, x, a, b, Turned(b).all(LAYOUT), batch_of(torch.tensor(slots), SLOTS))


@pytest.mark.parametrize("slots", [TOGETHER, MIXED, [0] * 9, [2] * 9, [-1] * 9, [-1] * 8 + [2]])
def test_each_token_gets_its_own_adapter_and_no_adapter_changes_nothing(weights: Weights, slots: list[int]) -> None:
    a, b = weights
    x, base = torch.randn(len(slots), IN), torch.randn(len(slots), OUT)
    out = base.clone()
    add(out, x, weights, slots)
    for token, slot in enumerate(slots):
        if slot < 0:
            assert torch.equal(out[token], base[token])
        else:
            added = b[slot, 0] @ (a[slot, 0] @ x[token])
            torch.testing.assert_close(out[token], base[token] + added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [16, 17, 63, 65, 300, 512, 513, 1100])
@pytest.mark.parametrize("alone", [True, False])
def test_a_step_of_any_number_of_tokens_adds_each_once(weights: Weights, tokens: int, alone: bool) -> None:
    a, b = weights
    slots = [1] * tokens if alone else [number % (SLOTS + 1) - 1 for number in range(tokens)]
    x, base = torch.randn(tokens, IN), torch.randn(tokens, OUT)
    out = base.clone()
    add(out, x, weights, slots)
    added = [b[slot, 0] @ (a[slot, 0] @ x[token]) if slot >= 0 else 0 * base[0] for token, slot in enumerate(slots)]
    torch.testing.assert_close(out, base + torch.stack(added), rtol=1e-4, atol=1e-4)


def test_any_number_of_tokens_is_cut_into_few_sizes() -> None:
    """Each size costs oneDNN a compilation of milliseconds, and memory for good."""
    sizes = {part.stop - part.start for tokens in range(1, 5000) for part in parts(tokens)}
    assert len(sizes) == 26
    assert max(len(parts(tokens)) for tokens in range(1, 513)) == 2


@pytest.mark.parametrize("slots", [MIXED, [1] * 9])
def test_a_slice_leaves_the_other_columns_alone(weights: Weights, slots: list[int]) -> None:
    x, base = torch.randn(9, IN), torch.randn(9, 2 * OUT)
    out = base.clone()
    add(out[:, OUT:], x, weights, slots)
    assert torch.equal(out[:, :OUT], base[:, :OUT])
    assert not torch.equal(out[:, OUT:], base[:, OUT:])


@pytest.mark.parametrize("slots", [MIXED, [2] * 9])
def test_an_adapter_may_be_padded_beyond_its_layer(weights: Weights, slots: list[int]) -> None:
    a, b = weights
    x, out = torch.randn(9, IN), torch.zeros(9, OUT - 4)
    add(out, x, weights, slots)
    torch.testing.assert_close(out[0], (b[2, 0] @ (a[2, 0] @ x[0]))[: OUT - 4], rtol=1e-4, atol=1e-4)


def test_what_explodes_in_one_adapter_stays_there(weights: Weights) -> None:
    a, b = weights
    a[2] *= 1e38
    out = torch.zeros(9, OUT)
    add(out, torch.full((9, IN), 10.0), (a, b), MIXED)
    assert out.isfinite().all(dim=1).tolist() == [slot != 2 for slot in MIXED]


def test_a_slot_that_gets_another_adapter_is_copied_and_no_other(weights: Weights) -> None:
    _, b = weights
    turned = Turned(b)
    before = turned.all(LAYOUT).clone()
    b[0] += 1
    b[1] += 1
    after = turned.all((7, 10, 9))
    assert torch.equal(after[:RANK], before[:RANK])
    assert torch.equal(after[RANK : 2 * RANK], b[1, 0].t())
    assert torch.equal(after[2 * RANK :], before[2 * RANK :])
    assert not turned.all((0, 10, 9))[:RANK].any()


def test_vllm_uses_them_and_they_are_called_as_its_own_are() -> None:
    from vllm.lora.punica_wrapper import punica_cpu, punica_selector

    own = punica_cpu.PunicaWrapperCPU
    try:
        register()
        ours = punica_selector.get_punica_wrapper(16, max_batches=4, device="cpu")
        for name in ("update_metadata", "add_lora_linear"):
            theirs = list(inspect.signature(getattr(own, name)).parameters.values())[1:]
            wanted = [each for each in theirs if each.kind is each.POSITIONAL_OR_KEYWORD and each.default is each.empty]
            assert list(inspect.signature(getattr(ours, name)).parameters)[: len(wanted)] == [e.name for e in wanted]
    finally:
        punica_cpu.PunicaWrapperCPU = own
