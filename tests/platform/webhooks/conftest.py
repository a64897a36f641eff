"""A registry with a clock of the test's, and a server that takes what is posted."""

from collections.abc import Iterator

import pytest

from luthier.platform.jobs import now_ms
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import add_admin
from tests.fakes import Clock, Launcher
from tests.receiver import Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def time() -> Clock:
    return Clock(now_ms())


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, time: Clock) -> Registry:
    registry = Registry(settings, launcher, time)
    add_admin(registry)
    return registry
