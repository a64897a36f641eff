"""How many workers can share a base model's layers."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from luthier.errors import InvalidInput
from luthier.platform.base_models import BaseModel, EngineSettings, load_catalog
from luthier.platform.settings import Settings
from luthier.platform.weights.base_shapes import CONFIG, check_shared

SMOLLM2 = {"num_attention_heads": 9, "num_key_value_heads": 3}
"""Of 135M."""
SEEING = {"text_config": {"num_attention_heads": 8, "num_key_value_heads": 4}, "vision_config": {}}


@pytest.fixture
def base(settings: Settings) -> BaseModel:
    return load_catalog(settings).get("tiny")


def shared_by(base: BaseModel, size: int) -> BaseModel:
    return base.model_copy(update={"engine": base.engine.model_copy(update={"tensor_parallel_size": size})})


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (SMOLLM2, "1, 3, 9"),
        (SEEING, "1, 2, 4, 8"),
        ({"text_config": None, "num_attention_heads": 9, "num_key_value_heads": 3}, "1, 3, 9"),
        ({"num_attention_heads": 12}, "1, 2, 3, 4, 6, 12"),
        ({"num_attention_heads": 12, "num_key_value_heads": 4}, "1, 2, 4, 12"),
    ],
)
def test_heads_are_shared_whole(base: BaseModel, tmp_path: Path, config: dict[str, Any], sizes: str) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(config))
    for size in range(1, 17):
        if str(size) in sizes.split(", "):
            check_shared(shared_by(base, size), tmp_path)
        else:
            with pytest.raises(InvalidInput, match=f"Base model tiny has .* can be {sizes}, not {size}\\."):
                check_shared(shared_by(base, size), tmp_path)


def test_what_tells_no_heads_is_left_to_vllm(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text('{"n_head": 12}')
    check_shared(shared_by(base, 5), tmp_path)


@pytest.mark.parametrize(
    ("config", "told"), [(None, "No such file"), ("{", "Expecting property name"), ("[]", "is not a JSON object")]
)
def test_a_config_that_tells_nothing(base: BaseModel, tmp_path: Path, config: str | None, told: str) -> None:
    if config is not None:
        (tmp_path / CONFIG).write_text(config)
    with pytest.raises(InvalidInput, match=f"config.json .*{told}.*It tells how the model is built"):
        check_shared(shared_by(base, 2), tmp_path)


def test_a_share_of_a_gpu_is_for_one_worker() -> None:
    with pytest.raises(ValidationError, match="gpu_share below 1 is for an engine on one GPU"):
        EngineSettings(max_model_len=512, gpu_share=0.5, tensor_parallel_size=2)
