"""The linear modules that headers tell are those that the trainer finds, for each family of the catalog."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from luthier.platform.weights.base_shapes import linear_modules, served_modules
from luthier.platform.weights.lora import last_names

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEEING = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "mistral": MistralConfig(**SMALL),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "qwen3-moe": Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "gemma3": Gemma3TextConfig(**SMALL),
    "gemma3-seeing": Gemma3Config(text_config=Gemma3TextConfig(**SMALL).to_dict(), vision_config=SEEING),
    "phi3": Phi3Config(**SMALL),
    "olmo2": Olmo2Config(**SMALL),
    "smollm3": SmolLM3Config(**SMALL),
    "gpt-oss": GptOssConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
}


def test_a_checkpoint_without_its_head(tmp_path: Path) -> None:
    """transformers loads it under the same names."""
    model = AutoModelForCausalLM.from_config(FAMILIES["llama"])
    model.save_pretrained(tmp_path / "whole")
    model.model.save_pretrained(tmp_path / "bare")
    assert linear_modules(tmp_path / "bare") == linear_modules(tmp_path / "whole")


@pytest.mark.parametrize("family", FAMILIES)
def test_headers_tell_what_the_model_has(family: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES[family])
    model.save_pretrained(tmp_path)
    head = model.get_output_embeddings()
    linear = {
        name: tuple(part.weight.shape)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and part is not head
    }
    told = linear_modules(tmp_path)
    assert told == linear
    assert {"o_proj", "k_proj"} & set(last_names(served_modules(told)))
    assert (served_modules(told) == told) == (family != "gemma3-seeing")
