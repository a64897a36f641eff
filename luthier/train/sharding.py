"""One model over the memory of all workers, by torch's FSDP2: each holds a share of every weight.

A layer's weights are put together when it runs and parted again after it. Nothing here but `chosen` and `spread` makes
a difference between a share and a whole: `whole`, `share` and `put` are right for both.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from luthier.errors import InvalidInput
from luthier.platform.memory import FILE_BYTES, WEIGHT_BYTES
from luthier.platform.options import Method
from luthier.platform.weights.tensors import weight_bytes
from luthier.train.config import FitConfig

GPU_SHARE = 0.6
"""Of a GPU's memory for weights; the rest is for activations."""


def chosen(config: FitConfig, device: torch.device, world_size: int) -> bool:
    """Whether the workers share one model; auto does when it does not fit one GPU."""
    if config.method is Method.QLORA and config.sharding == "full":
        raise InvalidInput("Method qlora cannot be sharded: a base in 4 bits stays on one GPU. Use method lora.")
    if world_size == 1 or config.sharding == "none" or config.method is Method.QLORA:
        return False
    if config.sharding == "full":
        return True
    if device.type != "cuda":
        return False
    needed = weight_bytes(config.base_dir) * WEIGHT_BYTES[config.method] / FILE_BYTES
    return needed > GPU_SHARE * float(torch.cuda.get_device_properties(device).total_memory)


def spread(root: Any, module: Any, source: Any, mesh: DeviceMesh, device: torch.device) -> None:
    """Fills module, which is on the meta device, with shares of source, which rank 0 alone has (others None).

    root is what runs the model from its tokens to its losses. The weights go from rank 0's CPU memory to each worker
    one tensor at a time, so no GPU ever holds the whole.
    """
    model = module.get_base_model() if hasattr(module, "peft_config") else module
    names = set(model._no_split_modules)
    layers = [part for part in module.modules() if type(part).__name__ in names]
    if not layers:
        raise InvalidInput("This kind of base model names no layers and cannot be sharded. Train it on one GPU each.")
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    module.to_empty(device=device)
    state = source.state_dict() if source is not None else {}
    set_model_state_dict(module, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    given = dict(source.named_buffers()) if source is not None else {}
    for name, buffer in module.named_buffers():  # those that no state dict has
        if given:
            buffer.copy_(given[name])
        torch.distributed.broadcast(buffer, 0)


def whole(tensor: Tensor, is_wanted: bool = True) -> Tensor:
    """A copy on the CPU, or nothing. Of a share every worker must ask for it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu", copy=True) if is_wanted else torch.empty(0)


def share(tensor: Tensor) -> Tensor:
    """What this worker has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def put(value: Tensor, like: Tensor) -> Tensor:
    """A copy of value, or this worker's share of it, on the device of `like`, which tells whether it is a share."""
    value = value.to(like.device, copy=True)
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return value
