"""Settings: arguments, then variables, then configs/platform.toml; anything else is refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.platform.settings import Settings, configs_dir, load_settings


@pytest.fixture(autouse=True)
def _home(own_home: None) -> None:
    pass


def test_shipped_settings_load(tmp_path: Path) -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.max_attempts) == ("127.0.0.1", 8000, 4)
    assert settings.home == tmp_path / "home"
    assert settings.store_url == f"sqlite:///{tmp_path}/home/luthier.db"
    assert load_settings() is settings


def test_variables_win_over_the_file_and_arguments_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PORT", "9000")
    monkeypatch.setenv("LUTHIER_SERVE_BASE_MODELS", '["a", "b"]')
    monkeypatch.setenv("LUTHIER_DATABASE_URL", "postgresql://db/luthier")
    assert Settings().port == 9000
    assert Settings(port=9001).port == 9001
    assert Settings().serve_base_models == ("a", "b")
    assert Settings().store_url == "postgresql://db/luthier"


@pytest.mark.parametrize(("name", "value"), [("PORT", "0"), ("MAX_ATTEMPTS", "0"), ("MAX_RUNNING_JOBS", "-1")])
def test_bad_variables_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LUTHIER_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_configs_of_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CONFIGS", str(tmp_path))
    assert configs_dir() == tmp_path
    (tmp_path / "platform.toml").write_text("port = 8001\n")
    assert Settings().port == 8001
    (tmp_path / "platform.toml").write_text("prot = 8001\n")
    with pytest.raises(ValidationError, match="prot"):
        Settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1
