"""LoRA products for vLLM on CPU, one dense product a run of tokens with the same adapter.

vLLM 0.29's own functions copy an adapter's weights once for every token, and read "no adapter" (-1) as the last slot:
a base model's request then takes on whatever adapter lies there. These take their places, as a vLLM plugin.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Run = tuple[int, int, int]
"""Tokens [start, end) and the slot of their adapter, -1 for none."""


def register() -> None:
    """Entry point vllm.general_plugins: called by vLLM in each of its processes. Does nothing to a GPU's kernels."""
    from vllm.lora.punica_wrapper import punica_cpu

    for function in (sgmv_shrink, sgmv_expand, sgmv_expand_slice, bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        setattr(punica_cpu, function.__name__, function)


# sgmv: runs as vLLM has clustered them, in `metadata` = starts, lengths, slots, batches, max_length, num_tokens


def sgmv_shrink(x: "Tensor", weights: "Tensor", out: "Tensor", *metadata: Any) -> None:
    """out[t, :r] = scale * x[t] @ A[slot].T, for A of shape [slots, 1, r, in]."""
    _shrink(x, weights, out, _clustered(metadata), metadata[6])


def sgmv_expand(x: "Tensor", weights: "Tensor", out: "Tensor", *metadata: Any) -> None:
    """out[t] (+)= x[t] @ B[slot].T, for B of shape [slots, 1, out, r]."""
    _expand(x, weights, out, _clustered(metadata), metadata[6])


def sgmv_expand_slice(x: "Tensor", weights: "Tensor", out: "Tensor", *metadata: Any) -> None:
    """The same into the columns [offset, offset + size) of out."""
    offset, size, add = metadata[6:9]
    _expand(x, weights, out[:, offset : offset + size], _clustered(metadata), add)


# bgmv: one slot a token; named as vLLM names them, since it also calls them by keyword


def bgmv_shrink(
    inputs: "Tensor",
    lora_b_weights: "Tensor",
    output_tensor: "Tensor",
    lora_indices_tensor: "Tensor",
    scaling: float = 1.0,
) -> None:
    _shrink(inputs, lora_b_weights, output_tensor, _runs(lora_indices_tensor), scaling)


def bgmv_expand(
    inputs: "Tensor",
    lora_b_weights: "Tensor",
    output_tensor: "Tensor",
    lora_indices_tensor: "Tensor",
    add_inputs: bool = True,
) -> None:
    _expand(inputs, lora_b_weights, output_tensor, _runs(lora_indices_tensor), add_inputs)


def bgmv_expand_slice(  # noqa: PLR0913 - vLLM's signature
    inputs: "Tensor",
    lora_b_weights: "Tensor",
    output_tensor: "Tensor",
    lora_indices_tensor: "Tensor",
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    columns = output_tensor[:, slice_offset : slice_offset + slice_size]
    _expand(inputs, lora_b_weights, columns, _runs(lora_indices_tensor), add_inputs)


def _shrink(x: "Tensor", weights: "Tensor", out: "Tensor", runs: Iterator[Run], scale: float) -> None:
    for start, end, slot in runs:
        if slot < 0:
            out[start:end] = 0
        else:
            a = _matrix(weights, slot, out)
            out[start:end, : a.shape[0]] = scale * (x[start:end].to(out.dtype) @ a.t())


def _expand(x: "Tensor", weights: "Tensor", out: "Tensor", runs: Iterator[Run], add: bool) -> None:
    for start, end, slot in runs:
        if slot >= 0:
            b = _matrix(weights, slot, out)[: out.shape[1]]  # adapter and layer may pad their outputs differently
            product = x[start:end].to(out.dtype) @ b.t()
            target = out[start:end, : b.shape[0]]
            if add:
                target += product
            else:
                target.copy_(product)
        elif not add:
            out[start:end] = 0


def _matrix(weights: "Tensor", slot: int, out: "Tensor") -> "Tensor":
    """[slots, 1, rows, columns] or [slots, rows, columns] -> [rows, columns], in the dtype of the sum."""
    chosen = weights[slot]
    return (chosen[0] if chosen.dim() == 3 else chosen).to(out.dtype)


def _clustered(metadata: tuple[Any, ...]) -> Iterator[Run]:
    starts, lengths, slots = (part.tolist() for part in metadata[:3])
    for start, length, slot in zip(starts, lengths, slots, strict=True):
        yield start, start + length, slot


def _runs(slots: "Tensor") -> Iterator[Run]:
    values, counts = slots.unique_consecutive(return_counts=True)
    start = 0
    for slot, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield start, start + count, slot
        start += count
