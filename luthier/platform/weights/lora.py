"""LoRA: what an adapter is asked to be, what one is, and when a run may go on from it. Pure."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen, nearest

Shape = tuple[int, int]
"""Of a linear module: (out, in)."""
Modules = Mapping[str, Shape]
"""By their names in the base model."""
Targets = tuple[str, ...] | Literal["all-linear"]


class LoraSettings(Frozen):
    rank: int = Field(default=16, ge=1, le=256)
    """LoRA rank. The serving engine must have room for it."""
    alpha: int = Field(default=32, ge=1)
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Above 0 training takes PEFT's own, slower forward."""
    targets: Targets = "all-linear"
    """Last names of the linear modules that get an adapter (q_proj, ...)."""


class Adapter(Frozen):
    """An adapter as it lies on disk."""

    rank: int
    scale: float
    """Its output is multiplied by this."""
    modules: dict[str, Shape]
    """Those that it changes."""


def last_names(modules: Iterable[str]) -> list[str]:
    """Each once: q_proj, v_proj, ..."""
    return sorted({name.rpartition(".")[2] for name in modules})


def target_names(targets: Targets, linear: Iterable[str]) -> list[str]:
    """The last names of the modules that get an adapter; InvalidInput when the base model has no such linear module."""
    there = last_names(linear)
    if targets == "all-linear":
        return there
    if unknown := [name for name in targets if name not in there]:
        near = nearest(unknown[0], there, 1)
        meant = f" Do you mean {near[0]}?" if near else ""
        raise InvalidInput(
            f"LoRA target {', '.join(unknown)} matches no linear module of the base model.{meant} "
            f"It has {', '.join(there)}."
        )
    return list(targets)


def targeted(targets: Targets, linear: Modules) -> dict[str, Shape]:
    """The modules that get an adapter."""
    names = set(target_names(targets, linear))
    return {name: shape for name, shape in linear.items() if name.rpartition(".")[2] in names}


def check_continues(adapter: Adapter, asked: LoraSettings, modules: Modules) -> None:
    """InvalidInput unless a run that trains these modules as asked can go on from an adapter."""
    source = "the adapter to continue from"
    if asked.rank != adapter.rank:
        raise InvalidInput(
            f"Option lora_rank = {asked.rank}: {source} has rank {adapter.rank}. Give lora_rank = {adapter.rank}."
        )
    if not math.isclose(asked.alpha, alpha := adapter.scale * adapter.rank):
        way = f"Give lora_alpha = {round(alpha)}." if math.isclose(alpha, round(alpha)) else "No lora_alpha gives that."
        raise InvalidInput(
            f"Option lora_alpha = {asked.alpha}: {source} is scaled by {alpha:.6g} / {adapter.rank}. {way}"
        )
    names = last_names(modules if asked.targets == "all-linear" else asked.targets)
    theirs = last_names(adapter.modules)
    if names != theirs:
        raise InvalidInput(
            f"Option lora_targets = {json.dumps(names)}: {source} has others. Give lora_targets = {json.dumps(theirs)}."
        )
    if dict(modules) != adapter.modules:
        raise InvalidInput(
            f"Option continue_from: {source} changes only some of the base model's modules of these names "
            f"({', '.join(names)}), and a run trains all of them. Choose another model to continue from."
        )
