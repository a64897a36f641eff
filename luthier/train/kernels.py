"""The places where a LoRA step spends its time, written for it: linear with adapter, norm, head with loss, attention.

Nothing here knows a model; bounds of documents arrive as an argument of the model call.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface

from luthier.errors import InvalidInput

ATTENTION = "luthier_documents"
HEAD_CHUNK = 256
"""Labelled tokens scored at once; the logits of one chunk are the largest tensors of a step."""


class LoraLinear(torch.autograd.Function):  # type: ignore[misc]  # torch's classes are untyped here
    """y = x W' + bias + (x A') B' in W's dtype, with a gradient for x, A and B only.

    W [out, in] and bias [out] are frozen; A [rank, in] and B [out, rank] are fp32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a_low, b_low = a.to(weight.dtype), b.to(weight.dtype)
        inner = rows @ a_low.t()
        ctx.save_for_backward(rows, weight, a_low, b_low, inner)
        ctx.shape = x.shape
        out = torch.nn.functional.linear(rows, weight, bias).addmm_(inner, b_low.t())
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a_low, b_low, inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_inner = grad @ b_low
        grad_x = (grad @ weight).addmm_(grad_inner, a_low).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, (grad_inner.t() @ rows).float(), (grad.t() @ inner).float()


class RmsNorm(torch.autograd.Function):  # type: ignore[misc]  # torch's classes are untyped here
    """x / sqrt(mean(x^2) + eps) over the last axis in fp32, times a frozen weight in x's dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normed = (wide * scale).to(x.dtype)
        ctx.save_for_backward(normed, scale, weight)
        return weight * normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        grad = (grads[0] * weight).float()
        along = (grad * normed).mean(-1, keepdim=True)
        return grad.sub_(normed * along).mul_(scale).to(normed.dtype), None, None


class HeadLoss(torch.autograd.Function):  # type: ignore[misc]  # torch's classes are untyped here
    """Cross-entropy [n] of each row of hidden [n, d] against targets [n] under a frozen head weight [v, d].

    The gradient is computed on the way forward, so the logits [n, v] never exist as a whole.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        grad = torch.empty_like(hidden)
        losses = hidden.new_empty(len(targets), dtype=torch.float32)
        # Made once: fresh memory of this size costs more than the sums that go into it.
        given = hidden.new_empty(min(HEAD_CHUNK, len(targets)), len(weight))
        wide, shares = (torch.empty_like(given, dtype=torch.float32) for _ in range(2))
        for start in range(0, len(targets), HEAD_CHUNK):
            target = targets[start : start + HEAD_CHUNK, None]
            cut = slice(start, start + len(target))
            low, logits, error = (buffer[: len(target)] for buffer in (given, wide, shares))
            torch.mm(hidden[cut], weight.t(), out=low)
            logits.copy_(low if bias is None else low.add_(bias))
            torch.softmax(logits, -1, out=error)
            log_sum = logits.amax(-1) - error.amax(-1).log()  # the likeliest token's share is never too small for this
            losses[cut] = log_sum - logits.gather(1, target)[:, 0]
            error.scatter_add_(1, target, error.new_full(target.shape, -1.0))
            torch.mm(low.copy_(error), weight, out=grad[cut])
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0][:, None].to(grad.dtype), None, None, None


def head_losses(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """The same for a head that is trained itself: logits of one chunk at a time, made again on the way back."""

    def losses(part: Tensor, target: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(part, weight, bias).float()
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    parts = zip(hidden.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([checkpoint(losses, part, target, use_reentrant=False) for part, target in parts])


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
    bounds: list[tuple[int, int]] = others["bounds"]
    scaling, sliding_window = others.get("scaling"), others.get("sliding_window")
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise InvalidInput(f"The base model's attention uses {name}, which cannot be trained here. Choose another.")
    dtype = query.dtype
    if query.device.type == "cpu":  # the backward of bf16 attention is several times slower there than fp32's
        query, key, value = query.float(), key.float(), value.float()
    grouped = query.shape[1] != key.shape[1]
    lengths = [end - start for start, end in bounds]
    outputs = []
    # split, not slices: the backward of a slice writes zeros for all other documents
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        mask = _band(q.shape[2], sliding_window, q.device)
        outputs.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous().to(dtype), None


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """[length, length], true for a token and the window - 1 before it; None where the window cuts nothing off."""
    if window is None or window >= length:
        return None
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, document_attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
