"""The tiny base model, and terms on it."""

from pathlib import Path

import pytest

from luthier.platform.base_models import BaseModel, load_catalog
from luthier.platform.data.prompts import Prompts, load_prompts
from luthier.platform.settings import Settings
from tests.platform.judging import Make


@pytest.fixture
def base(settings: Settings) -> BaseModel:
    return load_catalog(settings).get("tiny")


@pytest.fixture
def prompts(tiny_model: Path) -> Prompts:
    return load_prompts(tiny_model)


@pytest.fixture
def terms(base: BaseModel, prompts: Prompts) -> Make:
    return Make(base, prompts)
