"""The places where a LoRA step spends its time, written for it: linear with adapter, norm, head with loss.

Nothing here knows a model.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

HEAD_CHUNK = 256
"""Labelled tokens scored at once; the logits of one chunk are the largest tensors of a step."""
NORM_ROWS = 512
"""Normed at once on a CPU."""


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
    """x / sqrt(mean(x^2) + eps) over the last axis in fp32, times a frozen weight in x's dtype.

    A block of rows at a time, so that what is made in fp32 stays in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, out = x.new_empty(x.shape), x.new_empty(x.shape)
        scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
        for rows, low, root, weighted in _blocks(x, normed, scale, out):
            wide = rows.to(torch.float32, copy=True)
            torch.mean(wide.square(), -1, keepdim=True, out=root)
            low.copy_(wide.mul_(root.add_(eps).rsqrt_()))
            torch.mul(low, weight, out=weighted)
        ctx.save_for_backward(normed, scale, weight)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        grad_x = normed.new_empty(normed.shape)
        for grad, low, root, out in _blocks(grads[0], normed, scale, grad_x):
            wide, direction = (grad * weight).float(), low.float()
            along = (wide * direction).mean(-1, keepdim=True)
            out.copy_(wide.sub_(direction * along).mul_(root))
        return grad_x, None, None


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


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each tensor [..., n]; all rows at once on a GPU. Those that are written to are contiguous."""
    rows = [tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]
    size = NORM_ROWS if tensors[0].device.type == "cpu" else max(1, len(rows[0]))
    return zip(*(each.split(size) for each in rows), strict=True)
