"""Activation checkpointing: of a layer's forward only the input is kept, and the rest computed again on the way back.

Losses and gradients are the same. A step takes one more forward of each layer, and its activations the memory of one.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from luthier.errors import InvalidInput
from luthier.platform.data.prompts import Sample
from luthier.platform.memory import GRADIENT_BYTES, MOMENT_BYTES
from luthier.platform.run_files import mark
from luthier.train.model import TunedModel
from luthier.train.packing import pack
from luthier.train.room import is_out_of_memory, room
from luthier.train.team import Team

Mode = Literal["auto", "on", "off"]
WORDS = "Layers are computed again on the way back (activation checkpointing)"
TRIED = 64, 128
"""Tokens of two passes whose difference tells what one token keeps."""


class Recompute:
    """Off until it is needed; a file in the run's folder tells those who start later that memory ran out without it."""

    def __init__(self, model: TunedModel, mode: Mode, file: Path) -> None:
        self._model, self._file, self._layers = model, file, model.layers()
        self.mode = mode
        self._may_start = mode == "auto" and bool(self._layers)
        self.is_on = False
        if mode == "on" and not self._layers:
            raise InvalidInput(
                "Option activation_checkpointing = on: this kind of base model names no layers. Leave it at auto."
            )
        if mode == "on" or (self._may_start and file.exists()):
            self._start()

    def switch_on(self) -> bool:
        """After a lack of memory; False where it is on already, or may not be."""
        if self.is_on or not self._may_start:
            return False
        self._start()
        mark(self._file)
        return True

    def prepare(self, num_tokens: int, team: Team) -> None:
        """Switches it on, for all workers, where one of them has no room for a pass of so many tokens without it."""
        if self._may_start and (team.any(self.is_on) or team.any(self._is_short(num_tokens, team))):
            self._start()

    def _start(self) -> None:
        if not self.is_on:
            for layer in self._layers:
                layer.forward = partial(recomputed, layer.forward)
        self.is_on = True

    def _is_short(self, num_tokens: int, team: Team) -> bool:
        left = room_ahead(self._model)
        try:
            return left is not None and num_tokens * bytes_per_token(self._model) > left
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if team.mesh is not None:  # the others wait in the same pass: all start again, and know
                mark(self._file)
                raise
            return True


def bytes_per_token(model: TunedModel) -> float:
    """What a pass keeps of each token for its way back; workers that share weights call it together."""
    few, many = TRIED
    return (saved_bytes(model, many) - saved_bytes(model, few)) / (many - few)


def saved_bytes(model: TunedModel, num_tokens: int) -> int:
    """All that a pass of one document keeps for its way back, weights included."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()  # by the address of a storage, which lives until the way back
        return tensor.detach()  # an output that is kept itself would keep its own graph for ever

    document = Sample(ids=tuple(at % 32 for at in range(num_tokens)), learned=((0, num_tokens),))
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            losses, _ = model.token_losses(pack([(document,)]))
        losses.sum().backward()
    finally:
        model.module.zero_grad(set_to_none=True)
    return sum(kept.values())


def room_ahead(model: TunedModel) -> float | None:
    """Bytes of a GPU for passes before the first step; a host's are known too badly."""
    return room(model, 1, GRADIENT_BYTES + MOMENT_BYTES) if model.device.type == "cuda" else None


def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
