"""Whether an adapter that was trained elsewhere answers rightly on a base model here. Each fault is one sentence.

The engine looks at the last names of modules and at few settings: what it would pass over in silence is refused here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from luthier.errors import InvalidInput
from luthier.platform.base_models import BaseModel
from luthier.platform.weights.adapter_files import WEIGHTS, adapter_of, fault, read_settings, read_tensors
from luthier.platform.weights.base_shapes import current_name, served_modules
from luthier.platform.weights.lora import Adapter, Modules
from luthier.platform.weights.tensors import EXPONENTS, Tensor, is_finite, shown

CHECKED = {"peft_type", "task_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights", "target_modules"}
CHOOSING = {"layers_to_transform", "exclude_modules"}
"""Of all modules with a target's name some: the tensors tell which."""
HARMLESS = {
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode", "runtime_config"),
    *("lora_dropout", "layers_pattern", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("megatron_core", "qalora_group_size"),
}
"""They say nothing of what a trained adapter does."""
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Of init_lora_weights: those that leave the base model as it is. EVA may leave a rank_pattern, which is refused."""


def check_adapter(folder: Path, base: BaseModel, linear: Modules) -> Adapter:
    """The adapter in a folder; InvalidInput when it is not served as it was trained. `linear`: the base's modules."""
    settings = read_settings(folder)
    _check_settings(settings)
    tensors = read_tensors(folder)
    adapter = adapter_of(settings, tensors)
    if adapter.rank > base.max_rank:
        raise fault("r", adapter.rank, f"{base.name} can be served up to rank {base.max_rank}.")
    _check_modules(adapter, base, served_modules(linear))
    _check_targets(settings, adapter, linear)
    _check_values(folder / WEIGHTS, tensors)
    return adapter


def _check_settings(settings: dict[str, Any]) -> None:
    kind, task, bias = settings.get("peft_type"), settings.get("task_type"), settings.get("bias", "none")
    if kind != "LORA":
        raise fault("peft_type", kind, "only LORA adapters can be served.")
    if task not in (None, "CAUSAL_LM"):
        raise fault("task_type", task, "only adapters of CAUSAL_LM can be served.")
    if bias != "none":
        raise fault("bias", bias, 'no biases are served with an adapter. Train it with bias "none".')
    if (start := settings.get("init_lora_weights")) not in PLAIN_STARTS:
        reason = "that begins by changing the base model. Save it with path_initial_model_for_weight_conversion."
        raise fault("init_lora_weights", start, reason)
    for key in sorted(settings.keys() - CHECKED - CHOOSING - HARMLESS):
        if settings[key]:
            raise fault(key, settings[key], "the engine would not heed it. Train the adapter without it.")
    targets = settings.get("target_modules")
    if not targets or not (isinstance(targets, str) or _is_texts(targets)):
        raise fault("target_modules", targets, "give the names of the modules that the adapter changes.")


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _check_modules(adapter: Adapter, base: BaseModel, served: Modules) -> None:
    if not adapter.modules:
        raise InvalidInput(f"{WEIGHTS} holds no weights. Save the adapter anew.")
    for module, shape in adapter.modules.items():
        if module not in served:
            raise InvalidInput(
                f"{WEIGHTS}: {shown(module)} is no module of {base.name} that takes an adapter. Name the base model "
                f"that it was trained on, and train no head, embedding, expert or vision part."
            )
        if shape != served[module]:
            raise InvalidInput(
                f"{WEIGHTS}: {module} is {_size(shape)}, and in {base.name} {_size(served[module])} (out x in). Name "
                f"the base model that it was trained on."
            )


def _check_targets(settings: dict[str, Any], adapter: Adapter, linear: Modules) -> None:
    """A list of names and the tensors must agree; of a pattern, or a choice of layers, the tensors tell."""
    targets = settings["target_modules"]
    if isinstance(targets, str):
        return
    if other := next((module for module in adapter.modules if not _is_target(module, targets)), None):
        raise fault("target_modules", targets, f"{WEIGHTS} has {shown(other)} too. Save the adapter anew.")
    if any(settings.get(key) not in (None, []) for key in CHOOSING):
        return
    if lost := next((m for m in linear if _is_target(m, targets) and m not in adapter.modules), None):
        raise fault("target_modules", targets, f"{WEIGHTS} has no weights of {lost}. Save the adapter anew.")


def _is_target(module: str, targets: Iterable[str]) -> bool:
    return any(module == target or module.endswith(f".{target}") for target in map(current_name, targets))


def _check_values(weights: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in EXPONENTS:
            raise InvalidInput(
                f"{WEIGHTS}: {shown(name)} is {tensor.dtype}. Save the adapter in {', '.join(EXPONENTS)}."
            )
        if not is_finite(weights, tensor):
            raise InvalidInput(
                f"{WEIGHTS}: {shown(name)} has values that are no finite numbers. Import an earlier checkpoint of its "
                f"run."
            )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
