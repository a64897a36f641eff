"""A GPU's memory as torch tells it."""

from typing import Any

import pytest
import torch

from luthier.platform.memory import MOMENT_BYTES
from luthier.train.model import TunedModel
from luthier.train.room import Taken, room

GPU = torch.device("cuda", 0)
GIB = 2**30


class Model:
    """On a GPU, with a weight of a quarter of a GiB to train."""

    device = GPU

    def trainable(self) -> list[torch.Tensor]:
        return [torch.empty(GIB // 4, device="meta")]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What torch says of it, in bytes."""
    told = {"free": 20 * GIB, "memory_allocated": 10 * GIB, "memory_reserved": 13 * GIB}
    told["max_memory_reserved"] = told["memory_reserved"]

    def read(name: str) -> Any:
        return lambda device: told[name]

    for name in ("memory_allocated", "memory_reserved", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, read(name))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (told["free"], 80 * GIB))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return told


def test_what_is_free_or_idle_is_for_passes_but_for_the_state(
    gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine beside it has is not free."""
    model: TunedModel = Model()  # type: ignore[assignment]
    assert room(model, 1, MOMENT_BYTES) == pytest.approx(0.9 * (20 + 3 - 2) * GIB)
    gpu["free"] = 5 * GIB
    assert room(model, 1, MOMENT_BYTES) == pytest.approx(0.9 * (5 + 3 - 2) * GIB)


def test_passes_take_what_is_reserved_above_what_was_there(gpu: dict[str, int]) -> None:
    taken = Taken(GPU)
    gpu["max_memory_reserved"] = 17 * GIB
    assert taken.most() == 7 * GIB
