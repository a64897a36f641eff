"""The catalog: every shipped file loads; a bad one is refused with its path and the key."""

from pathlib import Path

import pytest

from luthier.errors import InvalidInput, NotFound
from luthier.platform.base_models import BaseModel, base_model_dir, load_catalog
from luthier.platform.frozen import read_toml
from luthier.platform.prices import load_prices
from luthier.platform.settings import Settings, configs_dir
from tests.factories import BASE_MODEL

SHIPPED = sorted((configs_dir() / "base_models").glob("*.toml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_base_models_hold_together(file: Path) -> None:
    base = read_toml(file, BaseModel)
    assert base.name == file.stem
    assert base.prompt_tokens + base.completion_tokens <= base.context_window
    assert base.engine.max_model_len <= base.context_window
    assert base.price_class in load_prices(configs_dir() / "prices.toml").classes


def test_at_least_one_base_model_is_shipped() -> None:
    assert SHIPPED


def test_the_home_adds_to_the_catalog(settings: Settings, tmp_path: Path) -> None:
    catalog = load_catalog(settings)
    assert {base.name for base in catalog} == {"tiny", *(file.stem for file in SHIPPED)}
    assert "tiny" in catalog
    assert base_model_dir(settings, catalog.get("tiny")) == tmp_path / "no-weights"
    fetched = base_model_dir(settings, catalog.get("smollm2-135m"))
    assert fetched.parent == settings.cache / "base_models"


def test_an_unknown_base_model_lists_the_known(settings: Settings) -> None:
    with pytest.raises(NotFound, match=r"Unknown base model 'gpt'.*smollm2-135m, tiny"):
        load_catalog(settings).get("gpt")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("context_window = 512", "context_window = 0", "context_window"),
        ('licence = "none"\n', "", "licence"),
        ("max_model_len", "max_len", "engine.max_model_len"),
        ('kind = "path"', 'kind = "cloud"', "source"),
        ("max_rank = 16", "max_rank = 16\nunknown = 1", "unknown"),
        ('name = "tiny"', "name = tiny", "not valid TOML"),
    ],
)
def test_a_bad_file_is_refused_with_its_path_and_key(settings: Settings, old: str, new: str, key: str) -> None:
    file = settings.home / "base_models" / "bad.toml"
    file.write_text(BASE_MODEL.format(path="x").replace(old, new))
    with pytest.raises(InvalidInput) as caught:
        load_catalog(settings)
    assert caught.value.message.startswith(f"{file}: {key}")
