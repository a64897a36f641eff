"""Everything that a run needs to go on as if it had never stopped, in one folder.

adapter/ is PEFT's format; trainer.pt holds the optimizer and the history. Learning rate, order of rows and random
numbers are functions of the seed and the step, so the history's length is their whole state.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from luthier.train.config import StepRecord
from luthier.train.model import TunedModel

ADAPTER = "adapter"
STATE = "trainer.pt"


@dataclass
class Progress:
    """How far a run is."""

    history: list[StepRecord] = field(default_factory=list)

    @property
    def step(self) -> int:
        return self.history[-1].step if self.history else 0

    @property
    def epoch(self) -> int:
        return self.history[-1].epoch if self.history else 0


def save(folder: Path, model: TunedModel, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    model.save_adapter(folder / ADAPTER)
    history = [record.model_dump() for record in progress.history]
    state = {"optimizer": optimizer.state_dict(), "history": history}
    torch.save(state, folder / STATE)


def load(folder: Path, model: TunedModel, optimizer: torch.optim.Optimizer) -> Progress:
    state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
    model.load_adapter(folder / ADAPTER)
    optimizer.load_state_dict(state["optimizer"])
    return Progress([StepRecord(**record) for record in state["history"]])
