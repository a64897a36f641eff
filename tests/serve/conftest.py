"""An identity provider, and a user whom it knows; where a spool of usage lies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.platform.registry.registry import Registry
from luthier.platform.securables import ObjectKind, Securable
from luthier.serve.metering.living import PROCESS
from tests.factories import ADMIN
from tests.fakes import Clock
from tests.serve.provider import Provider


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    provider = Provider()
    provider.add_key("a")
    yield provider
    provider.close()


@pytest.fixture
def provider(running: Provider) -> Provider:
    """With the one key `a`."""
    del running.published[1:]
    running.keys = {"a": running.keys["a"]}
    running.num_asked = running.num_fetched = 0
    running.is_down, running.issuer_told, running.moved = False, None, {}
    return running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ann(registry: Registry) -> None:
    """A user with the role SALES, which has ANALYST."""
    registry.users.create(ADMIN, "ANN")
    for role, to in (
        ("SALES", Securable(ObjectKind.USER, name="ANN")),
        ("ANALYST", Securable(ObjectKind.ROLE, name="SALES")),
    ):
        registry.roles.create(ADMIN, role)
        registry.roles.grant(ADMIN, role, to)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a spool of usage."""
    return tmp_path / "spool"


@pytest.fixture
def own_file(folder: Path) -> Path:
    """The first that this process writes."""
    return folder / f"{PROCESS}-1.jsonl"
