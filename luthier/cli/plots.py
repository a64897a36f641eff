"""The loss curve of a run, drawn with letters."""

from collections.abc import Mapping, Sequence
from typing import Any

MARGIN = 14
"""Columns beside the curve, which plotille's axes take."""


def loss_plot(metrics: Mapping[str, Sequence[Any]], width: int, height: int) -> str:
    """Training loss as a line, validation loss as crosses, over steps; coloured by ANSI codes."""
    from plotille import Figure

    steps, losses = metrics["step"], metrics["training_loss"]
    validated = [(step, loss) for step, loss in zip(steps, metrics["validation_loss"], strict=True) if loss is not None]
    figure = Figure()
    figure.width, figure.height = max(20, width - MARGIN), height
    figure.color_mode = "names"
    figure.origin = False
    figure.x_label, figure.y_label = "step", "loss, x: validation" if validated else "loss"
    figure.register_label_formatter(float, _number)
    figure.set_x_limits(min(steps), max(steps))
    figure.plot(steps, losses, lc="cyan")
    if validated:
        figure.scatter(*zip(*validated, strict=True), lc="yellow", marker="x")
    return str(figure.show())


def _number(value: float, chars: int, delta: float, left: bool = False) -> str:
    """A label of an axis: as many digits as tell its neighbours apart."""
    text = f"{value:.0f}" if delta >= chars else f"{value:.3f}"
    return text.ljust(chars) if left else text.rjust(chars)
