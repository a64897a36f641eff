"""LoRA products for vLLM on a CPU: the adapters of a batch in one dense product, not one for each token.

vLLM 0.29's own copy an adapter's weights once for every token, and read "no adapter" (-1) as the last slot: a base
model's request then takes on whatever adapter lies there.

oneDNN compiles a product of bfloat16 anew for each number of rows, in milliseconds, and keeps 1,024 of them, up to a
gibibyte. A step has any number of tokens, so they are taken in parts of few sizes.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.lora.punica_wrapper import punica_cpu
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase

MOST_ROWS = 512


class Batch(NamedTuple):
    """Whose the tokens of a batch are."""

    only: int | None
    """The slot of the adapter that all share; None when there are several, or tokens without one."""
    others: Tensor | None
    """[tokens, slots, 1], True where a slot is not the token's; None when no token has an adapter, or all one."""


def register() -> None:
    """Entry point vllm.general_plugins: called by vLLM in each of its processes. Does nothing to a GPU's kernels."""
    punica_cpu.PunicaWrapperCPU = GroupedLora


def batch_of(slots: Tensor, num_slots: int) -> Batch:
    """`slots` tells the adapter of each token, -1 for none."""
    found = set(slots.tolist())
    if found <= {-1}:
        return Batch(None, None)
    if len(found) == 1:
        return Batch(found.pop(), None)
    return Batch(None, (slots[:, None] != torch.arange(num_slots))[:, :, None])


class Turned:
    """B of all slots of a layer, [slots, 1, out, r], one below the other: [slots * r, out]. Copied as slots change."""

    def __init__(self, b: Tensor) -> None:
        slots, _, out, rank = b.shape
        self._b, self._layout, self._all = b, (0,) * slots, b.new_zeros(slots * rank, out)

    def all(self, layout: tuple[int, ...]) -> Tensor:
        """`layout` has the number of each slot's adapter, 0 for none; no number ever stands for other weights."""
        if layout != self._layout:
            rank = self._b.shape[3]
            for slot, (old, new) in enumerate(zip(self._layout, layout, strict=True)):
                if old != new:
                    self._all[slot * rank : (slot + 1) * rank] = self._b[slot, 0].t() if new else 0
            self._layout = layout
        return self._all


def add_product(y: Tensor, x: Tensor, a: Tensor, b: Tensor, turned: Tensor | None, batch: Batch) -> None:
    """y[t] += B[slot of t] @ A[slot of t] @ x[t], for A of [slots, 1, r, in] and B of [slots, 1, out, r].

    `turned` is B as Turned has it, wanted when there are several adapters.
    """
    if batch.only is not None:
        # Adapter and layer may pad their outputs differently.
        _add(y, _low(x, a[batch.only, 0].t()), b[batch.only, 0, : y.shape[1]].t())
    elif batch.others is not None and turned is not None:
        slots, _, rank, _ = a.shape
        low = _low(x, a.view(slots * rank, -1).t())
        # Not multiplied by 0: one tenant's infinity would be another's NaN.
        low.view(-1, slots, rank).masked_fill_(batch.others, 0)
        _add(y, low, turned[:, : y.shape[1]])


class Part(NamedTuple):
    start: int
    stop: int
    again: int
    """Rows at its start that are in the part before, too."""


@cache
def parts(rows: int) -> tuple[Part, ...]:
    """All rows in as few parts as may be, of 26 sizes in all; the last goes back as far as its size wants."""
    step = next(step for step, least in ((64, 64), (16, 16), (1, 0)) if rows >= least)
    whole = rows // step * step
    found = [Part(start, min(start + MOST_ROWS, whole), 0) for start in range(0, whole, MOST_ROWS)]
    return (*found, Part(rows - step, rows, whole - rows + step)) if whole < rows else tuple(found)


def _low(x: Tensor, a: Tensor) -> Tensor:
    low = x.new_empty(x.shape[0], a.shape[1])
    for start, stop, _ in parts(x.shape[0]):
        torch.mm(x[start:stop], a, out=low[start:stop])
    return low


def _add(y: Tensor, low: Tensor, b: Tensor) -> None:
    for start, stop, again in parts(y.shape[0]):
        part = low[start:stop]
        if again:
            part = part.clone()
            part[:again] = 0  # added before
        y[start:stop].addmm_(part, b)


class GroupedLora(PunicaWrapperBase):  # type: ignore[misc] # untyped
    """What vLLM's layers call. No adapter of ours is one of an embedding or a head."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turned: dict[int, Turned] = {}

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """vLLM calls it before a step when whose the tokens are, or what the slots hold, has changed."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._layout = tuple(number or 0 for number in lora_index_to_id)
        self._batch = batch_of(self.token_lora_indices, len(self._layout))

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Sequence[Tensor],
        lora_b_stacked: Sequence[Tensor],
        scale: float,
        output_slices: Sequence[int],
        **_: Any,
    ) -> None:
        assert scale == 1.0  # vLLM multiplies B by it
        batch, start = self._batch, 0
        if batch.only is None and batch.others is None:
            return
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            turned = None if batch.others is None else self._turned_of(b)
            add_product(y[:, start : start + width], x, a, b, turned, batch)
            start += width

    def add_shrink(self, *_args: Any, **_kwargs: Any) -> None:
        raise NotImplementedError("Adapters sharded over several CPUs, of embeddings or of heads.")

    add_expand = add_lora_embedding = add_lora_logits = add_shrink

    def _turned_of(self, b: Tensor) -> Tensor:
        at = b.data_ptr()
        if at not in self._turned:
            self._turned[at] = Turned(b)
        return self._turned[at].all(self._layout)
