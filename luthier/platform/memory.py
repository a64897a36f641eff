"""The least memory that a run takes, by what its trainer holds of every weight, and what a GPU has. Pure.

A lower bound, without activations, adapter and libraries: what it refuses can never run; what it lets through may
still find too little.
"""

from collections.abc import Iterable
from typing import Literal

from luthier.platform.base_models import BaseModel
from luthier.platform.options import Method
from luthier.platform.queue import Capacity
from luthier.platform.settings import GIB

FILE_BYTES = 2
"""Of each weight in the files and frozen, in bf16."""
MASTER_BYTES, GRADIENT_BYTES, MOMENT_BYTES = 4, 4, 8
"""Of each trained weight: itself, its gradient, and two moments, in fp32."""
WEIGHT_BYTES = {
    Method.LORA: float(FILE_BYTES),
    Method.QLORA: 0.516,
    Method.FULL: float(MASTER_BYTES + GRADIENT_BYTES + MOMENT_BYTES),
}
"""Of each weight of the base; qlora has it in 4 bits and scales of 8."""
ROUNDING = 0.95
"""Cards round upward: Llama 2's 7B are 6.74."""
GPU_GIB = {
    "A10": 24,
    "A100": 80,
    "A10G": 24,
    "A40": 48,
    "B200": 192,
    "B300": 288,
    "GB200": 192,
    "GB300": 288,
    "GH200": 144,
    "H100": 94,
    "H20": 141,
    "H200": 141,
    "L4": 24,
    "L40": 48,
    "L40S": 48,
    "RTX-PRO-6000": 96,
    "T4": 16,
    "V100": 32,
}
"""By Ray's names of accelerators; the largest that goes by the name."""


def least_bytes(base: BaseModel, method: Method, workers: int, unit: Literal["GPU", "CPU"]) -> int:
    """What each worker needs; 0 when the row does not say how many weights there are.

    Workers on GPUs share what does not fit one of them; a base in 4 bits cannot be shared.
    """
    whole = (base.parameters or 0) * ROUNDING * WEIGHT_BYTES[method]
    is_shared = unit == "GPU" and method is not Method.QLORA
    return int(whole / workers) if is_shared else int(whole)


def gpu_bytes(types: Iterable[str | None]) -> int | None:
    """The most that one of these GPUs has; None when one of them is unknown, or there is none."""
    sizes = [GPU_GIB.get(each or "") for each in types]
    known = [size for size in sizes if size]
    return max(known) * GIB if known and len(known) == len(sizes) else None


def ways_out(base: BaseModel, method: Method, workers: int, capacity: Capacity) -> str:
    """What would not be refused for its memory, as a sentence."""

    def fits(other: Method, num: int) -> bool:
        return capacity.can_hold(num, least_bytes(base, other, num, capacity.unit))

    ways = []
    if enough := next((num for num in range(workers + 1, capacity.workers + 1) if fits(method, num)), None):
        ways.append(f"set num_workers to {enough} or more")
    offered = [Method.LORA, Method.QLORA] if capacity.unit == "GPU" else [Method.LORA]
    lighter = [each for each in offered if each is not method and each in base.methods and fits(each, workers)]
    if lighter:
        ways.append(f"use method {' or '.join(lighter)}")
    words = ", ".join([*ways, "or choose a smaller base model" if ways else "choose a smaller base model"])
    return f"{words[0].upper()}{words[1:]}."
