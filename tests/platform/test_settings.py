"""Settings: arguments, then variables, then configs/platform.toml; anything else is refused."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from luthier.errors import InvalidInput
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


def test_an_account_has_room_for_the_largest_answer() -> None:
    assert Settings(max_answer_mib=8, max_answers_mib=16).max_answer_mib == 8
    with pytest.raises(ValidationError, match="max_answers_mib is twice max_answer_mib at least"):
        Settings(max_answer_mib=9, max_answers_mib=16)


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
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PORT", "http", "LUTHIER_PORT: Input should be a valid integer"),
        ("port", "http", "LUTHIER_port: Input should be a valid integer"),
        ("REGIONS", "{", "LUTHIER_REGIONS: not JSON: Expecting property name"),
        ("OIDC_ISSUER", "http://sso.example", "LUTHIER_OIDC_ISSUER: an https:// address"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str) -> None:
    monkeypatch.setenv(f"LUTHIER_{name}", value)
    with pytest.raises(InvalidInput) as raised:
        load_settings()
    assert raised.value.message.startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\nport = = 3\n", ":2: not valid TOML: Invalid value"),
        ("\n\nprot = 3\n", ":3: prot: unknown key; do you mean port?"),
        ("\nmax_attempts = 0\n", ":2: max_attempts: Input should be greater than or equal to 1"),
        (
            '\n[regions.eu]\nstorage = "/eu"\ndatabse_url = "x"\n',
            ":4: regions.eu.databse_url: unknown key; do you mean database_url?",
        ),
    ],
)
def test_a_bad_line_of_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    (tmp_path / "platform.toml").write_text(text)
    monkeypatch.setenv("LUTHIER_CONFIGS", str(tmp_path))
    with pytest.raises(InvalidInput) as raised:
        load_settings()
    assert raised.value.message == f"{tmp_path / 'platform.toml'}{told}"


@pytest.mark.parametrize(
    ("regions", "told"),
    [
        ({"us": {"storage": "/us", "database_url": "x"}}, "{file}:2: regions.eu.database_url: is missing"),
        ({"us": {"storage": "/us"}}, "{file}:2: regions.eu.database_url: is missing"),
        ({"eu": {"database_url": ""}}, "luthier_regions: eu.database_url: String should have at least 1 character"),
        ({"eu": {"database_url": "x"}, "us": {"storage": "/us"}}, "luthier_regions: us.database_url: is missing"),
    ],
)
def test_of_a_variable_and_a_table_the_one_at_fault_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, regions: dict[str, object], told: str
) -> None:
    file = tmp_path / "platform.toml"
    file.write_text('\n[regions.eu]\nstorage = "/eu"\n')
    monkeypatch.setenv("LUTHIER_CONFIGS", str(tmp_path))
    monkeypatch.setenv("luthier_regions", json.dumps(regions))
    with pytest.raises(InvalidInput) as raised:
        load_settings()
    assert raised.value.message == told.format(file=file)
