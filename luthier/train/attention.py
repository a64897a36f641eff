"""Attention that keeps packed documents apart; their bounds arrive as an argument of the model call."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from luthier.errors import InvalidInput

ATTENTION = "luthier_documents"


def document_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each document of query [1, heads, T, head_dim]; gives [1, T, heads, head_dim].

    others must hold bounds, the start and end of each document, as the model was called with them.
    """
    scaling, sliding_window = others.get("scaling"), others.get("sliding_window")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise InvalidInput(f"The base model's attention uses {name}, which cannot be trained here. Choose another.")
    query, key = query.to(value.dtype), key.to(value.dtype)  # where autocast left positions in fp32
    span = Span([end - start for start, end in others["bounds"]], sliding_window, scaling)
    is_flash = query.device.type == "cpu" and query.shape[-1] == value.shape[-1]
    out: Tensor = (CpuAttention.apply if is_flash else _attend)(query, key, value, span)
    return out, None


@dataclass(frozen=True)
class Span:
    """What each token sees: its document's tokens up to itself, or of these the last `window`."""

    lengths: list[int]
    """Tokens of each document; their sum is T."""
    window: int | None
    scale: float | None

    def split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Each document's part of tensors [1, heads, T, head_dim]."""
        # split, not slices: the backward of a slice writes zeros for all other documents
        return zip(*(each.split(self.lengths, dim=2) for each in tensors), strict=True)

    def mask(self, query: Tensor) -> Tensor | None:
        """[n, n] to add to a document's scores; None where all tokens before a token are seen."""
        length = query.shape[2]
        if self.window is None or self.window >= length:
            return None
        steps = torch.arange(length, device=query.device)
        distance = steps[:, None] - steps[None, :]
        return query.new_zeros(length, length).masked_fill_((distance < 0) | (distance >= self.window), -math.inf)


class CpuAttention(torch.autograd.Function):  # type: ignore[misc]  # torch's classes are untyped here
    """torch's flash attention, forward in the dtype given and backward in fp32: there bf16 is several times slower."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
        out = q.new_empty(1, q.shape[2], q.shape[1], q.shape[3])
        log_sums = []
        for query, key, value, into in span.split(q, k, v, out.transpose(1, 2)):
            mask = span.mask(query)
            made, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, 0.0, mask is None, attn_mask=mask, scale=span.scale
            )
            into.copy_(made)
            log_sums.append(log_sum)
        ctx.save_for_backward(q, k, v, out, *log_sums)
        ctx.span = span
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *log_sums = ctx.saved_tensors
        made = [torch.empty_like(each.transpose(1, 2)).transpose(1, 2) for each in (q, k, v)]
        documents = ctx.span.split(grads[0].transpose(1, 2), q, k, v, out.transpose(1, 2), *made)
        for (*given, for_q, for_k, for_v), log_sum in zip(documents, log_sums, strict=True):
            wide = [each.float() for each in given]
            mask = ctx.span.mask(wide[0])
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                *wide, log_sum, 0.0, mask is None, attn_mask=mask, scale=ctx.span.scale
            )
            for into, part in zip((for_q, for_k, for_v), parts, strict=True):
                into.copy_(part)
        return *made, None


def _attend(q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
    outputs = []
    for query, key, value in span.split(q, k, v):
        mask = span.mask(query)
        outputs.append(
            scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None,
                scale=span.scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, document_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
