"""An adapter on the tiny model as it is made elsewhere: by PEFT alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from luthier.platform.weights.adapter_files import SETTINGS, WEIGHTS

Tensors = dict[str, np.ndarray]


def build_adapter(base_dir: Path, folder: Path, seed: int = 1, **given: Any) -> Path:
    """Writes an adapter of rank 8 on all linear modules, whose B is not zero; `given` goes to LoraConfig."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **given}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_dir), LoraConfig(**config))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.05)
    model.save_pretrained(folder)
    return folder


def change_settings(folder: Path, **changes: Any) -> None:
    """Keys of adapter_config.json; None is written as null."""
    file = folder / SETTINGS
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def drop_setting(folder: Path, key: str) -> None:
    file = folder / SETTINGS
    settings = json.loads(file.read_text())
    del settings[key]
    file.write_text(json.dumps(settings))


def change_weights(folder: Path, change: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
