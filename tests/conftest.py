"""What many tests share: the tiny base model and one local Ray cluster a session."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings, load_settings
from luthier.platform.store import Store
from tests.factories import add_admin, make_settings
from tests.fakes import Launcher

# Ray reads these when it is imported: only loopback listeners, no usage reports, workers at normal priority.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random base model."""
    from tests.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def foreign_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by PEFT on the tiny model. Not to be changed: `adapter` is a copy."""
    from tests.tiny_adapter import build_adapter

    return build_adapter(tiny_model, tmp_path_factory.mktemp("foreign") / "adapter")


@pytest.fixture
def adapter(foreign_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(foreign_adapter, tmp_path / "adapter"))


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads the settings, profile or key of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("LUTHIER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the newest migration: a copy of it is a fresh home's database, at a tenth of the time."""
    file = tmp_path_factory.mktemp("store") / "luthier.db"
    Store(f"sqlite:///{file}").engine.dispose()
    return file


@pytest.fixture
def home(own_home: None, tmp_path: Path, empty_database: Path) -> Path:
    """A fresh home."""
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home" / "luthier.db")
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    """A fresh home whose one base model, `tiny`, has no weights."""
    return make_settings(home, tmp_path / "no-weights")


@pytest.fixture
def launcher() -> Launcher:
    return Launcher()


@pytest.fixture
def registry(settings: Settings, launcher: Launcher) -> Registry:
    """With an admin whose key is factories.KEY."""
    registry = Registry(settings, launcher, clock=lambda: 5_000)
    add_admin(registry)
    return registry


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local cluster of two CPUs, for tests marked ray."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    root = str(Path(__file__).parents[1])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield
    ray.shutdown()
