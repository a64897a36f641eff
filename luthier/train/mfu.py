"""Model FLOPs utilization: the share of a GPU's peak that goes into the model's products."""

import math
import re
from pathlib import Path

from luthier.platform.options import Method
from luthier.platform.weights.tensors import read_header
from luthier.train.config import FitConfig

# Dense bfloat16 FLOP/s by words of the device's name, from the maker's data sheets; the first that fits counts.
PEAKS = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100 NVL": 8.35e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L40": 1.81e14,
    "A10G": 7.0e13,
    "A10": 1.25e14,
    "L4": 1.21e14,
    "RTX 5090": 2.09e14,
    "RTX 4090": 1.65e14,
    "RTX 3090": 7.1e13,
}


class Utilization:
    """Of all workers of a run together. Products of attention scores are left out, as is usual."""

    def __init__(self, config: FitConfig) -> None:
        peak = _peak(config)
        # Forward and gradients of the activations are 2 FLOP a weight each; gradients of the weights as many again.
        per_weight = 6 if config.method is Method.FULL else 4
        self._cost = per_weight * num_weights(config.base_dir) / peak if peak else None

    def share(self, tokens_per_second: float) -> float | None:
        """0.0 to 1.0; None on a CPU or an unknown device."""
        return tokens_per_second * self._cost if self._cost else None


def num_weights(base_dir: Path) -> int:
    """Weights that multiply, from the files' headers: embeddings that are only looked up do not count."""
    files = base_dir.glob("*.safetensors")
    shapes = {name: tensor.shape for file in files for name, tensor in read_header(file).items()}
    if any(name.startswith("lm_head.") for name in shapes):
        shapes = {name: shape for name, shape in shapes.items() if "embed_tokens" not in name}
    return sum(map(math.prod, shapes.values()))


def peak_of(device: str) -> float | None:
    """FLOP/s of a device by its name, such as `NVIDIA H100 80GB HBM3`."""
    return next((peak for words, peak in PEAKS.items() if re.search(rf"\b{words}\b", device)), None)


def _peak(config: FitConfig) -> float | None:
    """FLOP/s of all workers' devices."""
    if not config.use_gpu:
        return None
    import torch

    peak = peak_of(torch.cuda.get_device_name())
    num_workers = config.num_workers if isinstance(config.num_workers, int) else config.num_workers[1]
    return peak and peak * num_workers
