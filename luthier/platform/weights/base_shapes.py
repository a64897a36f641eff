"""A base model's shapes, by its files: the linear modules that adapters stand on, and who can share them. No torch."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.errors import Conflict, InvalidInput, NotFetched
from luthier.platform.base_models import BaseModel
from luthier.platform.weights.lora import Modules
from luthier.platform.weights.tensors import Tensor, read_header

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
TEXT = "model.language_model."
"""Where the text part of a model stands that reads more than text."""
OLD_TEXT = "language_model.model."
"""The same in a checkpoint's names, and in transformers before 4.52."""
BARE = "layers."
"""Begins names in a checkpoint that was saved without its head."""
OTHERS = ("lm_head", "wte", "wpe", "gate", "router")
"""Last names of matrices that are no linear module, or none that gets an adapter: heads, tables, routers of experts."""


def linear_modules(base_dir: Path) -> Modules:
    """By name, as transformers calls them; empty when there are no safetensors. Read once while files stay the same."""
    files = weight_files(base_dir)
    try:
        return _linear_modules(tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))
    except InvalidInput as error:
        raise Conflict(f"The weights of base model {_name(base_dir)} are damaged: fetch them anew. {error}") from error


@lru_cache(maxsize=16)
def _linear_modules(files: tuple[tuple[Path, int, int], ...]) -> Modules:
    """`files` have the times of their last changes, and sizes."""
    tensors = {name: tensor for file, *_ in files for name, tensor in read_header(file).items()}
    modules = linear_names(tensors)
    return {module: (tensors[name].shape[0], tensors[name].shape[1]) for name, module in modules.items()}


def linear_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The linear module, as transformers calls it, of each tensor of a checkpoint that is the weight of one."""
    matrices = [name for name, tensor in tensors.items() if name.endswith(".weight") and len(tensor.shape) == 2]
    modules = {name: module for name in matrices if _is_linear(module := name.removesuffix(".weight"))}
    if any(module.startswith((OLD_TEXT, BARE)) for module in modules.values()):
        return {name: _new_name(module) for name, module in modules.items()}
    return modules


def current_name(module: str) -> str:
    """As transformers calls it today: before 4.52 the text part of a model that sees stood elsewhere."""
    return TEXT + module.removeprefix(OLD_TEXT) if module.startswith(OLD_TEXT) else module


def check_shared(base: BaseModel, base_dir: Path) -> None:
    """InvalidInput when so many workers cannot share its layers: each computes whole heads of the attention."""
    if (size := base.engine.tensor_parallel_size) == 1:
        return
    text = _text_config(base_dir)
    if not (heads := text.get("num_attention_heads")):  # vLLM knows the names that other families have for it
        return
    keys = text.get("num_key_value_heads") or heads
    sizes = [each for each in range(1, heads + 1) if heads % each == 0 and (keys % each == 0 or each % keys == 0)]
    if size not in sizes:
        raise InvalidInput(
            f"Base model {base.name} has {heads} attention heads, {keys} of them with keys of their own: its "
            f"engine.tensor_parallel_size can be {', '.join(map(str, sizes))}, not {size}."
        )


def served_modules(linear: Modules) -> Modules:
    """Those of the text part: the engine applies no adapter to eyes and ears."""
    text = {name: shape for name, shape in linear.items() if name.startswith(TEXT)}
    return text or linear


def weight_files(base_dir: Path) -> list[Path]:
    if not (index := base_dir / INDEX).is_file():
        return [file for file in (base_dir / WEIGHTS,) if file.is_file()]
    files = [base_dir / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    if gone := [file.name for file in files if not file.is_file()]:
        raise NotFetched(f"The weights of base model {_name(base_dir)} lack {gone[0]}: fetch them anew.")
    return files


def _text_config(base_dir: Path) -> dict[str, Any]:
    """Of a model that reads more than text, its text part's."""
    file = base_dir / CONFIG
    try:
        told = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{file} cannot be read: {error}. It tells how the model is built.") from error
    if not isinstance(told, dict):
        raise InvalidInput(f"{file} is not a JSON object. It tells how the model is built.")
    text = told.get("text_config")
    return text if isinstance(text, dict) else told


def _name(base_dir: Path) -> str:
    return base_dir.name.partition("@")[0]


def _is_linear(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last not in OTHERS and "embed" not in last and ".experts." not in name


def _new_name(name: str) -> str:
    return current_name(name) if name.startswith(OLD_TEXT) else f"model.{name}"
