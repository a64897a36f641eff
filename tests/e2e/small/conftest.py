"""A cluster of these tests' own, with the tiny model alone: one replica that may become two."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.live import LiveCluster, clean

SCALING = {"max_replicas": 2, "target_ongoing_requests": 4, "scale_up_s": 1.0, "scale_down_s": 3600.0}


@pytest.fixture(scope="package")
def cluster(tiny_model: Path) -> Iterator[LiveCluster]:
    with (
        tempfile.TemporaryDirectory(prefix="le2e-") as folder,
        clean(LiveCluster(Path(folder), tiny_model)) as live,
    ):
        live.set_engine(**SCALING)
        live.up()
        yield live
