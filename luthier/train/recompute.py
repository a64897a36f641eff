"""Activation checkpointing: of a layer's forward only the input is kept, and the rest computed again on the way back.

Losses and gradients are the same. A step takes up to half more time, and its activations the memory of one layer.
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
from luthier.platform.prompts import Sample
from luthier.platform.run_files import mark
from luthier.train.model import TunedModel
from luthier.train.packing import pack
from luthier.train.sharding import share
from luthier.train.team import Team

Mode = Literal["auto", "on", "off"]
WORDS = "Layers are computed again on the way back (activation checkpointing)"
ROOM_SHARE = 0.9
"""Of a GPU's free memory for what passes keep; the rest is for what comes and goes."""
STATE_BYTES = 12
"""Gradient and two moments in fp32 of each trained weight, which there are none of before the first step."""
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
        if self._may_start and (team.any(self.is_on) or team.any(self._is_short(num_tokens))):
            self._start()

    def _start(self) -> None:
        if not self.is_on:
            for layer in self._layers:
                layer.forward = partial(recomputed, layer.forward)
        self.is_on = True

    def _is_short(self, num_tokens: int) -> bool:
        left = room(self._model)
        return left is not None and num_tokens * bytes_per_token(self._model) > left


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
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        losses, _ = model.token_losses(pack([(document,)]))
    losses.sum().backward()
    model.module.zero_grad(set_to_none=True)
    return sum(kept.values())


def room(model: TunedModel) -> float | None:
    """Bytes of the GPU for what passes keep, once training's own state is there; a host's are known too badly."""
    if model.device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(model.device)
    idle = torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)
    state = STATE_BYTES * sum(share(p).numel() for p in model.trainable())
    return ROOM_SHARE * float(free + idle - state)


def recomputed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
