"""A cluster on a Ray that is not its own."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.live import BASE, SECONDS, LiveCluster, clean, until
from tests.e2e.other_ray import actors_of, other_ray, plain_environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture
def ctrl_c() -> Iterator[signal.Signals]:
    """Heard by what is started meanwhile: who runs in the background ignores it, and all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.SIGINT
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_nothing_on_a_ray_that_was_joined(tiny_model: Path, ctrl_c: signal.Signals) -> None:
    with other_ray() as (address, _root), tempfile.TemporaryDirectory(prefix="le2e-") as folder:
        with clean(LiveCluster(Path(folder), tiny_model)) as joined:
            joined.env |= plain_environment()
            with joined.started("up", "--address", address) as starting:
                assert starting.stderr
                until(lambda: "starting the gateway" in starting.stderr.readline(), SECONDS, "the gateway's start")
                starting.send_signal(ctrl_c)
                told = starting.communicate(timeout=SECONDS)[1]
            assert (starting.returncode, told.splitlines()[-1]) == (130, "Interrupted."), told
            joined.check_gone()
        until(lambda: actors_of(address) == set(), SECONDS, "the end of its actors")


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
