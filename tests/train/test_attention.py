"""The CPU's attention against torch's, documents apart, with and without a window."""

import pytest
import torch
from torch import Tensor

from luthier.train.attention import CpuAttention, Span, _attend


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_way_on_a_cpu_gives_the_same_values_and_gradients(
    window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    shapes = ((1, 6, 40, 32), (1, 2, 40, 32), (1, 2, 40, 32))
    heads = [torch.randn(shape) for shape in shapes]
    span, grad = Span([3, 17, 20], window, None), torch.randn(1, 40, 6, 32)

    def run(inputs: list[Tensor], attend: object) -> list[Tensor]:
        own = [each.clone().requires_grad_() for each in inputs]
        out = attend(*own, span)  # type: ignore[operator]
        return [out.detach(), *torch.autograd.grad(out, own, grad.to(out.dtype))]

    expected = run(heads, _attend)
    given = run([each.to(dtype) for each in heads], CpuAttention.apply)
    for own, other in zip(given, expected, strict=True):
        assert own.dtype is dtype
        assert float((own.float() - other).norm() / other.norm()) < tolerance


def test_documents_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 10, 32) for _ in range(3))
    packed = CpuAttention.apply(q, k, v, Span([4, 6], None, None))
    alone = CpuAttention.apply(*(each[:, :, 4:] for each in (q, k, v)), Span([6], None, None))
    torch.testing.assert_close(packed[:, 4:], alone)
