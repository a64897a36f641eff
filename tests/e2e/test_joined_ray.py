"""A cluster on a Ray that is not its own."""

import tempfile
from pathlib import Path

import pytest

from tests.e2e.live import BASE, SECONDS, LiveCluster, clean, until
from tests.e2e.other_ray import actors_of, other_ray, plain_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_up_joins_a_ray_and_down_leaves_it(tiny_model: Path) -> None:
    with other_ray() as (address, root), tempfile.TemporaryDirectory(prefix="le2e-") as folder:
        others = [root, *root.children()]
        with clean(LiveCluster(Path(folder), tiny_model)) as joined:
            joined.env |= plain_environment()
            joined.up("--address", address)
            assert joined.client.complete(BASE, "the fox", {"max_tokens": 4})["usage"]["completion_tokens"] == 4
            assert "luthier-registry" in actors_of(address)
        until(lambda: actors_of(address) == set(), SECONDS, "the end of its actors")
        assert all(process.is_running() for process in others)
