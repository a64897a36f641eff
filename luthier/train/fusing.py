"""Layers of a model with an adapter that get a faster forward for the same result: LoRA's linears, RMS norms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLayer
from torch import Tensor

from luthier.train.kernels import LoraLinear, RmsNorm

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules of one parent that read the same tensor."""


def fuse(model: Any, is_shared: bool = False) -> None:
    """In place. The adapter must have no dropout; weights that workers will share are not joined."""
    products = Products()
    for parent in () if is_shared else list(model.modules()):
        for layers in _siblings(parent):
            together = Siblings(layers, products)
            for layer in layers:
                layer.forward = MethodType(together.forward, layer)
    for module in model.modules():
        if isinstance(module, LoraLayer) and "forward" not in vars(module):
            module.forward = MethodType(_lora_forward, module)
        elif _is_rms_norm(module):
            module.forward = MethodType(_norm_forward, module)


@dataclass
class Products:
    """What the siblings that were called last will ask for; one place in a model.

    A pass that failed between two siblings leaves them, and all that led to them, until the next comes to its first.
    """

    read: Tensor | None = None
    parts: dict[Any, Tensor] = field(default_factory=dict)


class Siblings:
    """LoRA layers that read one tensor: the first that is called multiplies for all, the others find their part.

    One product of the joined weights takes less time than one of each, and their input's gradient needs no sum.
    """

    def __init__(self, layers: Sequence[Any], products: Products) -> None:
        self._layers, self._products = layers, products
        bases = [layer.base_layer for layer in layers]
        self._widths = [base.out_features for base in bases]
        self._weight = torch.cat([base.weight.data for base in bases])
        for base, part in zip(bases, self._weight.split(self._widths), strict=True):
            base.weight.data = part  # no weight is held twice
        self._bias = None if bases[0].bias is None else torch.cat([base.bias.data for base in bases])

    def forward(self, layer: Any, x: Tensor) -> Tensor:
        mine = self._products
        if x is not mine.read or layer not in mine.parts:
            mine.parts = {}
            mine.read, mine.parts = x, dict(zip(self._layers, self._multiply(x), strict=True))
        part = mine.parts.pop(layer)
        if not mine.parts:
            mine.read = None
        return part

    def _multiply(self, x: Tensor) -> tuple[Tensor, ...]:
        pairs = [_adapter(layer) for layer in self._layers]
        a, b = torch.cat([a for a, _ in pairs]), torch.block_diag(*[b for _, b in pairs])
        joined: Tensor = LoraLinear.apply(x, self._weight, self._bias, a, b)
        parts: tuple[Tensor, ...] = joined.split(self._widths, dim=-1)
        return parts


def _siblings(parent: Any) -> Iterator[list[Any]]:
    for names in SIBLINGS:
        layers = [getattr(parent, name, None) for name in names]
        if not all(isinstance(layer, LoraLayer) for layer in layers):
            continue
        bases = [layer.base_layer for layer in layers if layer is not None]
        same = {(base.in_features, base.bias is None, base.weight.dtype, base.weight.device) for base in bases}
        if len(same) == 1 and all(type(base) is torch.nn.Linear for base in bases):
            yield layers


def _lora_forward(layer: Any, x: Tensor) -> Tensor:
    base = layer.base_layer
    out: Tensor = LoraLinear.apply(x, base.weight, base.bias, *_adapter(layer))
    return out


def _adapter(layer: Any) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank], scaled."""
    name = layer.active_adapters[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight * layer.scaling[name]


def _is_rms_norm(module: Any) -> bool:
    """Of Llama's kind, by what it computes: others scale by 1 + weight."""
    if not type(module).__name__.endswith("RMSNorm") or not hasattr(module, "variance_epsilon"):
        return False
    weight = module.weight
    if weight.requires_grad or weight.is_meta:
        return False
    tried = torch.linspace(-2, 2, 2 * len(weight), dtype=weight.dtype, device=weight.device).view(2, -1)
    with torch.no_grad():
        return bool(torch.allclose(module(tried), RmsNorm.apply(tried, weight, module.variance_epsilon), rtol=1e-2))


def _norm_forward(norm: Any, x: Tensor) -> Tensor:
    out: Tensor = RmsNorm.apply(x, norm.weight, norm.variance_epsilon)
    return out
