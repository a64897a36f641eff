"""What many tests share: the tiny base model, homes and a registry."""

import gc
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import sqlalchemy as sa

from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings, load_settings
from luthier.platform.store import Store
from tests.factories import add_admin, make_settings
from tests.fakes import Launcher

if TYPE_CHECKING:
    from tests.machines import Bench
    from tests.postgres import Server

# Ray reads these when it is imported: only loopback listeners, no usage reports, workers at normal priority.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so

SEED = "hypothesis seed"
DIALECTS: dict[str, sa.Dialect] = {}
COMPILED: dict[Any, Any] = {}
"""By SQLAlchemy, of the statements of all tests."""

# How long one example takes says how busy the machine is.
hypothesis.settings.register_profile("luthier", deadline=None)
hypothesis.settings.load_profile("luthier")


@sa.event.listens_for(sa.Engine, "engine_connect")
def _compile_once(connection: sa.Connection) -> None:
    """A store of one process compiles a statement once; those of the tests, a fresh one for each, would all do it."""
    connection.dialect = DIALECTS.setdefault(connection.dialect.name, connection.dialect)
    connection.execution_options(compiled_cache=COMPILED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First those on Ray, which take longest, so that others can run beside them."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


def pytest_collection_finish() -> None:
    """All that was imported stays: to look through it again at every collection takes a third of the time of a test."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The seeds of the state machines: with --hypothesis-seed each does the same again."""
    for report in (each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])):
        for number in (value for name, value in report.user_properties if name == SEED):
            terminalreporter.write_line(f"{SEED} of {report.nodeid}: {number}")


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


@pytest.fixture(scope="session")
def postgres() -> Iterator["Server"]:
    from tests.postgres import started

    with started() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest) -> Iterator["Bench"]:
    """For state machines."""
    from tests.machines import Bench, Watched, memory

    given = request.config.getoption("hypothesis_seed")
    number = int(given) if given else secrets.randbits(32)
    request.node.user_properties.append((SEED, number))
    if request.param == "sqlite":
        yield Bench(memory(), number, is_slow=False)
        return
    with request.getfixturevalue("postgres").database() as url:
        store = Watched(url)
        yield Bench(store, number, is_slow=True)
        store.engine.dispose()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of files that are marked `stores` run on SQLite and on PostgreSQL."""
    if metafunc.definition.get_closest_marker("stores") and "store" in metafunc.fixturenames:
        metafunc.parametrize("store", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, own_home: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the settings of this test keep its rows: in the home, unless it asks for PostgreSQL."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield
        return
    server: Server = request.getfixturevalue("postgres")
    with server.database() as url:
        monkeypatch.setenv("LUTHIER_DATABASE_URL", url)
        yield


@pytest.fixture
def home(store: None, tmp_path: Path, empty_database: Path) -> Path:
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
