"""How long a run is, how fast it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.platform.jobs import shortened_words
from luthier.platform.options import BatchSize, Duration, Unit
from luthier.train.config import FitConfig
from luthier.train.loop import rate_share, train, update
from tests.train.local import Local, alone, silent_run


@pytest.mark.parametrize(
    ("duration", "num_steps", "num_epochs"),
    [
        (Duration(num=2, unit=Unit.EPOCHS), 10, 2),
        (Duration(num=7, unit=Unit.BATCHES), 7, 2),
        (Duration(num=1, unit=Unit.BATCHES), 1, 1),
    ],
)
def test_a_duration_in_epochs_or_steps(
    config: FitConfig, tmp_path: Path, duration: Duration, num_steps: int, num_epochs: int
) -> None:
    run = Local(tmp_path / "kept")
    history = train(config.model_copy(update={"duration": duration}), run.worker)
    assert (len(history), history[-1].epoch) == (num_steps, num_epochs)
    assert history[-1].validation_loss is not None
    assert (run.folder / str(num_steps)).is_dir()


@pytest.mark.parametrize("num", [1, 500, 1500])
def test_a_duration_in_tokens_ends_with_the_step_that_reaches_it(config: FitConfig, num: int) -> None:
    history = alone(config.model_copy(update={"duration": Duration(num=num, unit=Unit.TOKENS)}))
    tokens = [record.num_tokens for record in history]
    assert sum(tokens[:-1]) < num <= sum(tokens)


@pytest.mark.parametrize("limit", [300, 1234])
def test_a_budget_is_never_passed(config: FitConfig, tmp_path: Path, limit: int) -> None:
    expected = alone(config)
    run = Local(tmp_path / "kept")
    history = train(config.model_copy(update={"max_trained_tokens": limit}), run.worker)
    spent = sum(record.num_tokens for record in history)
    assert [words for kind, words in run.events if kind == "SHORTENED"] == [shortened_words(spent)]
    assert spent <= limit < spent + expected[len(history)].num_tokens
    assert history[-1].validation_loss is not None


def test_a_batch_in_tokens(config: FitConfig) -> None:
    run = silent_run(config.model_copy(update={"batch": BatchSize(tokens=150)}))
    assert all(run.training.lengths[step.rows].sum() <= 150 for step in run.steps)
    assert len({len(step.rows) for step in run.steps}) > 1


def test_the_rate_rises_then_falls_to_nothing() -> None:
    shares = [rate_share(step, 10, 0.2, "linear") for step in range(1, 11)]
    assert shares == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rate_share(1, 10, 0.0, "linear") == 1.0
    assert rate_share(1, 1, 1.0, "linear") == 1.0


def test_other_schedules_rise_alike_and_fall_otherwise() -> None:
    cosine = [rate_share(step, 10, 0.2, "cosine") for step in range(1, 11)]
    assert cosine == pytest.approx([0.5, 1] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)])
    assert [rate_share(step, 10, 0.2, "constant") for step in range(1, 11)] == [0.5] + [1.0] * 9


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_each_step_is_taken_at_its_rate(config: FitConfig, schedule: str) -> None:
    history = alone(config.model_copy(update={"schedule": schedule, "warmup_share": 0.2}))
    expected = [config.learning_rate * rate_share(step, 15, 0.2, schedule) for step in range(1, 16)]
    assert [record.learning_rate for record in history] == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weights_decay_as_adamw_says(config: FitConfig, decay: float) -> None:
    """One step with a known gradient, written out."""
    run = silent_run(config.model_copy(update={"weight_decay": decay}))
    before: dict[str, Any] = run.model.weights()
    for p in run.model.trainable():
        p.grad = torch.full_like(p, 0.25)
    update(run, 0.01)
    for name, weight in run.model.weights().items():
        torch.testing.assert_close(weight, before[name] * (1 - 0.01 * decay) - 0.01, rtol=1e-4, atol=1e-6)
