"""A run's metrics as TensorBoard's event files, and their names for every tool: those of Composer's runs."""

import math
import uuid
from collections.abc import Iterable
from pathlib import Path

from luthier.platform.run_files import StepMetrics


def named_metrics(step: StepMetrics) -> dict[str, float]:
    """What is known of a step."""
    validation = step.validation_loss
    named = {
        "loss/train/total": step.training_loss,
        "metrics/train/LanguageCrossEntropy": step.training_loss,
        "metrics/eval/LanguageCrossEntropy": validation,
        "metrics/eval/LanguagePerplexity": None if validation is None else math.exp(min(validation, 700.0)),
        "lr-DecoupledAdamW/group0": step.learning_rate,
        "l2_norm/grad/global": step.gradient_norm,
        "throughput/tokens_per_sec": step.tokens_per_second,
        "throughput/device/mfu": step.mfu,
        "time/batch": float(step.step),
        "time/epoch": float(step.epoch),
    }
    return {name: value for name, value in named.items() if value is not None}


class TensorBoard:
    """Event files in a folder; each process of a run adds one."""

    def __init__(self, folder: Path) -> None:
        # Not SummaryWriter: its queue between processes takes longer, and a kill loses what is in it.
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), filename_suffix=f".{uuid.uuid4().hex[:8]}")

    def add(self, steps: Iterable[StepMetrics]) -> None:
        """On disk when it returns."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        for step in steps:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in named_metrics(step).items()]
            self._writer.write_event(Event(wall_time=step.time / 1000, step=step.step, summary=Summary(value=values)))
        self._writer.flush()
