"""`luthier demo`, as `make demo` runs it: the real small base model, tuned on the sample table, beats itself."""

import re
import tempfile
from pathlib import Path

import pytest

from tests.e2e.live import LiveCluster

DEMO_SECONDS = 1800.0
LEAST_ACCURACY = 80.0
"""Percent of held-out rows that the tuned model gets right to the letter."""

pytestmark = [pytest.mark.e2e, pytest.mark.real_model, pytest.mark.timeout(DEMO_SECONDS + 60)]


def test_the_demo_tunes_a_model_that_beats_its_base(tiny_model: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="le2e-") as folder:
        live = LiveCluster(Path(folder), tiny_model)
        for name in ("LUTHIER_SERVE_BASE_MODELS", "LUTHIER_CACHE"):  # the defaults: base model weights are fetched once
            del live.env[name]
        done = live.run("demo", seconds=DEMO_SECONDS)
        assert done.returncode == 0, done.stderr
        assert accuracy(done.stdout, "ticket_writer") >= LEAST_ACCURACY
        assert accuracy(done.stdout, "ticket_writer") > accuracy(done.stdout, "smollm2-135m") + 50
        live.check_gone()


def accuracy(printed: str, model: str) -> float:
    """Of a model's row in the table at the end."""
    (percent,) = re.findall(rf"^\W*{model}\s+\d+/\d+\s+([\d.]+)%", printed, re.MULTILINE)
    return float(percent)
