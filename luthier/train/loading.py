"""A base model from its folder, with what a run trains in it: an adapter by PEFT, or all its weights."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from luthier.errors import InvalidInput
from luthier.platform.options import Method
from luthier.platform.processor import has_bfloat16
from luthier.platform.weights.adapter_files import WEIGHTS, current_tensor, modules_of, read_adapter
from luthier.platform.weights.lora import LoraSettings, check_continues, target_names
from luthier.train.attention import ATTENTION
from luthier.train.config import FitConfig
from luthier.train.fusing import fuse


def build(config: FitConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """The module of a run, with fresh weights to train or those of config.continue_from.

    On the meta device it has the shapes and no values.
    """
    is_full = config.method is Method.FULL
    folder = config.continue_from if is_full and config.continue_from else config.base_dir
    base = _base(folder, config.method, device, torch.float32 if is_full else dtype)
    if is_full:
        return base
    torch.manual_seed(config.seed)
    peft = _with_adapter(base, config, device)
    if config.continue_from and device.type != "meta":
        _load_adapter(peft, config.continue_from, config.lora)
    return peft


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32."""
    return torch.bfloat16 if device.type == "cuda" or has_bfloat16() else torch.float32


def _base(folder: Path, method: Method, device: torch.device, dtype: torch.dtype) -> Any:
    if device.type == "meta":
        with device:
            causal = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(str(folder)), dtype=dtype, attn_implementation=ATTENTION
            )
        if (folder / "generation_config.json").is_file():
            causal.generation_config = GenerationConfig.from_pretrained(str(folder))
        return causal
    extras: dict[str, Any] = {}
    if method is Method.QLORA:
        if device.type != "cuda":
            raise InvalidInput("Method qlora needs a GPU: its 4-bit products run nowhere else. Use method lora.")
        from transformers import BitsAndBytesConfig

        extras["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        extras["device_map"] = {"": device}
    causal = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=dtype, attn_implementation=ATTENTION, local_files_only=True, **extras
    )
    return causal if extras else causal.to(device)


def _with_adapter(base: Any, config: FitConfig, device: torch.device) -> Any:
    lora, is_meta = config.lora, device.type == "meta"
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets(base, lora),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(config.base_dir),
    )
    with device if is_meta else nullcontext():
        peft = get_peft_model(base, settings, low_cpu_mem_usage=is_meta)
    if lora.dropout == 0:
        fuse(peft, is_shared=is_meta)
    return peft


def _targets(base: Any, lora: LoraSettings) -> list[str]:
    """The names of the linear modules to adapt; the head is no target, for the loss reads its frozen weight."""
    head = base.get_output_embeddings()
    linear = (name for name, part in base.named_modules() if isinstance(part, torch.nn.Linear) and part is not head)
    return target_names(lora.targets, linear)


def _load_adapter(peft: Any, folder: Path, lora: LoraSettings) -> None:
    """Takes over an adapter of the same rank, scale and modules; InvalidInput for any other."""
    own = get_peft_model_state_dict(peft, save_embedding_layers=False)
    modules = modules_of({name: tuple(weight.shape) for name, weight in own.items()}, lora.rank)
    check_continues(read_adapter(folder), lora, modules)
    weights = {current_tensor(name): weight for name, weight in load_file(folder / WEIGHTS).items()}
    set_peft_model_state_dict(peft, weights)
