"""A run's metrics as TensorBoard's event files, and their names for every tool: those of Composer's runs."""

import math
import uuid
from collections.abc import Iterable
from pathlib import Path

from luthier.platform.run_files import StepMetrics
from luthier.platform.tasks import TaskType


def named_metrics(step: StepMetrics, task: TaskType) -> dict[str, float]:
    """What is known of a step of such a task."""
    named = {
        "loss/train/total": step.training_loss,
        **_named_losses(step, task),
        "lr-DecoupledAdamW/group0": step.learning_rate,
        "l2_norm/grad/global": step.gradient_norm,
        "throughput/tokens_per_sec": step.tokens_per_second,
        "throughput/device/mfu": step.mfu,
        "time/batch": float(step.step),
        "time/epoch": float(step.epoch),
    }
    return {name: value for name, value in named.items() if value is not None}


def _named_losses(step: StepMetrics, task: TaskType) -> dict[str, float | None]:
    """By what the task minimises."""
    validation = step.validation_loss
    if task is TaskType.DPO:
        return {"metrics/train/DPOLoss": step.training_loss, "metrics/eval/DPOLoss": validation}
    return {
        "metrics/train/LanguageCrossEntropy": step.training_loss,
        "metrics/eval/LanguageCrossEntropy": validation,
        "metrics/eval/LanguagePerplexity": None if validation is None else math.exp(min(validation, 700.0)),
    }


class TensorBoard:
    """Event files in a folder; each process of a run adds one."""

    def __init__(self, folder: Path, task: TaskType) -> None:
        # Not SummaryWriter: its queue between processes takes longer, and a kill loses what is in it.
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._task = task
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{uuid.uuid4().hex[:8]}")

    def add(self, steps: Iterable[StepMetrics]) -> None:
        """On disk when it returns."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        for step in steps:
            named = named_metrics(step, self._task)
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in named.items()]
            self._writer.write_event(Event(wall_time=step.time / 1000, step=step.step, summary=Summary(value=values)))
        self._writer.flush()
