"""Everything that a run needs to go on as if it had never stopped, in one folder.

model/ is PEFT's or Hugging Face's format, for whoever uses the model; trainer.pt holds the exact weights, the optimizer
and the history. Learning rate, order of rows and random numbers are functions of the seed and the step, so the
history's length is their whole state. Weights have their names and are whole: any number of workers can go on.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from luthier.errors import LossDiverged
from luthier.platform.options import BatchSize
from luthier.platform.run_files import MODEL
from luthier.platform.storage import sync
from luthier.train.config import StepRecord
from luthier.train.model import TunedModel
from luthier.train.sharding import put, whole

STATE = "trainer.pt"


@dataclass
class RunState:
    """How far a run is."""

    history: list[StepRecord] = field(default_factory=list)
    batch: BatchSize | None = None
    """What an automatic batch was measured to be: the order of rows hangs on it."""

    @property
    def step(self) -> int:
        return self.history[-1].step if self.history else 0


@dataclass(frozen=True)
class Snapshot:
    """Copies of all that changes, on the CPU."""

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    """The optimizer's state of each weight."""
    state: RunState

    def check(self) -> None:
        """LossDiverged when it should not be kept."""
        if not all(weight.isfinite().all() for weight in self.weights.values()):
            step = self.state.step
            raise LossDiverged(f"The weights are no numbers after step {step}. Try a smaller learning rate.")

    def save(self, folder: Path, model: TunedModel) -> None:
        """OSError when it cannot be written."""
        history = [record.model_dump() for record in self.state.history]
        batch = self.state.batch and self.state.batch.model_dump()
        saved: dict[str, Any] = {"weights": self.weights, "moments": self.moments, "history": history, "batch": batch}
        try:
            model.save(folder / MODEL, self.weights)
            with (folder / STATE).open("wb") as file:
                torch.save(saved, file)
            sync(*folder.rglob("*"), folder)
        except (SafetensorError, RuntimeError) as error:  # what the two writers make of a full disk
            raise OSError(str(error.__context__ or error)) from error


def snapshot(model: TunedModel, optimizer: torch.optim.Optimizer, state: RunState, is_wanted: bool = True) -> Snapshot:
    """Every worker that shares weights takes part; for those that do not want it, it is empty."""
    moments = {
        name: {key: whole(value, is_wanted) for key, value in optimizer.state[p].items()}
        for name, p in model.named_trainable().items()
    }
    return Snapshot(model.weights(is_wanted), moments, RunState(list(state.history), state.batch))


def load(folder: Path, model: TunedModel, optimizer: torch.optim.Optimizer) -> RunState:
    """Takes over what a snapshot saved; each worker reads its own share of the file."""
    saved = torch.load(folder / STATE, weights_only=True, map_location="cpu", mmap=True)
    model.take(saved["weights"])
    for name, p in model.named_trainable().items():
        optimizer.state[p] = {key: put(value, p) for key, value in saved["moments"][name].items()}
    batch = saved["batch"] and BatchSize(**saved["batch"])
    return RunState([StepRecord(**record) for record in saved["history"]], batch)
