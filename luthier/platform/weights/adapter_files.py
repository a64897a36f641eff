"""A LoRA adapter in a folder, in PEFT's format: its settings, and its weights by their headers. No torch."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from luthier.errors import InvalidInput, NotFound
from luthier.platform.weights.base_shapes import OLD_TEXT, TEXT, current_name
from luthier.platform.weights.lora import Adapter, Shape
from luthier.platform.weights.tensors import SHOWN, Tensor, read_header, shown

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MAX_SETTINGS_BYTES = 1 << 20
MAX_HEADER_BYTES = 4 << 20
"""Ten times what the largest model's adapter on all linear modules has."""
MAX_RANK, MAX_ALPHA = 1 << 16, 1e9
"""No adapter is near them, and floats can be made of both."""
PREFIX = "base_model.model."
"""Before the module's name in each tensor's."""
A, B = ".lora_A.weight", ".lora_B.weight"
"""After it: A is [rank, in], B is [out, rank]."""


def check_file_name(name: str) -> None:
    """InvalidInput for a file that is neither of the two of an adapter."""
    if Path(name).suffix in PICKLES:
        raise InvalidInput(
            f"{name} is a pickle, which may run code when it is read: save the adapter as {WEIGHTS} "
            f"(save_pretrained with safe_serialization=True)."
        )
    if name not in (SETTINGS, WEIGHTS):
        raise InvalidInput(f"{name} is no file of an adapter: those are {SETTINGS} and {WEIGHTS}.")


def check_files(names: Collection[str]) -> None:
    """InvalidInput unless both files are among these."""
    lost = next((name for name in (SETTINGS, WEIGHTS) if name not in names), None)
    if lost is None:
        return
    for name in sorted(names):
        if name.startswith("adapter_model."):
            check_file_name(name)
    raise InvalidInput(f"{lost} is missing: an adapter is {SETTINGS} and {WEIGHTS}.")


def read_adapter(folder: Path) -> Adapter:
    """NotFound when a file is missing, InvalidInput when the two are no adapter."""
    return adapter_of(read_settings(folder), read_tensors(folder))


def adapter_of(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Adapter:
    """What settings and tensors make together."""
    rank = settings["r"]
    root = math.sqrt(rank) if settings.get("use_rslora") else rank
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Adapter(rank=rank, scale=settings["lora_alpha"] / root, modules=modules_of(shapes, rank))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Those of adapter_model.safetensors."""
    return read_header(_there(folder / WEIGHTS), MAX_HEADER_BYTES)


def read_settings(folder: Path) -> dict[str, Any]:
    """adapter_config.json with an r and a lora_alpha that can be used; the rest as it stands."""
    file = _there(folder / SETTINGS)
    if file.stat().st_size > MAX_SETTINGS_BYTES:
        raise InvalidInput(f"{SETTINGS} has more than {MAX_SETTINGS_BYTES >> 20} MiB: it is no adapter's settings.")
    try:
        settings = json.loads(file.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{SETTINGS} is not UTF-8: {error.reason} at byte {error.start}.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{SETTINGS} is not valid JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise InvalidInput(f"{SETTINGS} is no JSON object.")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise fault("r", rank, f"the rank must be a whole number from 1 to {MAX_RANK}.")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= MAX_ALPHA:
        raise fault("lora_alpha", alpha, f"it must be a number above 0, and at most {MAX_ALPHA:.0f}.")
    return settings


def modules_of(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, Shape]:
    """What tensors of these names and shapes change; InvalidInput unless all are whole pairs of the rank."""
    current = {current_tensor(name): shape for name, shape in shapes.items()}
    if len(current) < len(shapes):
        raise InvalidInput(f"{WEIGHTS} has a module under two names, {TEXT}... and {OLD_TEXT}...: save it anew.")
    names = sorted({_module(name) for name in current})
    return {name: _pair(name, current, rank) for name in names}


def current_tensor(name: str) -> str:
    """A tensor's name with its module's of today."""
    return PREFIX + current_name(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else name


def fault(key: str, value: object, reason: str) -> InvalidInput:
    """Of a key in adapter_config.json."""
    return InvalidInput(f"{SETTINGS}: {shown(key)} = {json.dumps(value)[:SHOWN]}: {reason}")


def _there(file: Path) -> Path:
    if not file.is_file():
        raise NotFound(f"Its {file.name} is missing in storage.")
    return file


def _module(tensor: str) -> str:
    half = next((each for each in (A, B) if tensor.endswith(each)), None)
    if half is None or not tensor.startswith(PREFIX):
        raise InvalidInput(
            f"{WEIGHTS}: {shown(tensor)} is no half of a LoRA pair ({PREFIX}MODULE{A} or {B}): train the adapter on "
            f"linear modules alone, and save it with PEFT's save_pretrained."
        )
    return tensor.removeprefix(PREFIX).removesuffix(half)


def _pair(module: str, shapes: Mapping[str, tuple[int, ...]], rank: int) -> Shape:
    a, b = (shapes.get(f"{PREFIX}{module}{half}") for half in (A, B))
    if a is None or b is None:
        raise InvalidInput(f"{WEIGHTS}: {shown(module)} has no {(A if a is None else B)[1:7]}: save the adapter anew.")
    if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
        shapes_told = f"lora_A {shown(str(list(a)))} and lora_B {shown(str(list(b)))}"
        raise InvalidInput(
            f"{WEIGHTS}: {shown(module)} has {shapes_told}: by r = {rank} in {SETTINGS} they must be "
            f"[{rank}, in] and [out, {rank}]."
        )
    return b[0], a[1]
