"""What memory a worker has for its passes, what these take, and when there was too little."""

from pathlib import Path

import psutil
import torch

from luthier.train.model import TunedModel
from luthier.train.sharding import share

GPU_SHARE = 0.9
"""Of a GPU's free memory for passes; the rest is for what comes and goes."""
HOST_SHARE = 0.5
"""Of the host's, where others live too."""


def room(model: TunedModel, world_size: int, state_bytes: int) -> float:
    """Bytes for passes, once training's own state has taken so many of each trained weight of a GPU."""
    if model.device.type != "cuda":
        return HOST_SHARE * float(psutil.virtual_memory().available) / world_size  # all workers may be on this host
    free, _ = torch.cuda.mem_get_info(model.device)
    idle = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    state = state_bytes * sum(share(p).numel() for p in model.trainable())
    return GPU_SHARE * float(free + idle - state)


class Taken:
    """The most memory that passes have taken since it was made."""

    def __init__(self, device: torch.device) -> None:
        self._is_gpu, self._device = device.type == "cuda", device
        if self._is_gpu:
            torch.cuda.empty_cache()  # what is idle counts as taken
            torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if self._is_gpu else psutil.Process().memory_info().rss
        self._before = int(before)

    def most(self) -> int:
        return (torch.cuda.max_memory_reserved(self._device) if self._is_gpu else _host_peak()) - self._before


def is_out_of_memory(error: Exception) -> bool:
    """A GPU's or the host's; torch has a class for the first alone."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    told = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in told)


def _host_peak() -> int:
    """Most memory that this process has had; getrusage would count its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
