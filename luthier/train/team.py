"""The workers of one run as one: sums over them, their gradients, and errors that end all of them alike."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn import Parameter

from luthier.errors import LuthierError
from luthier.train.packing import Batch, pack

MESSAGE_WEIGHTS = 32_000_000
"""Gradients that travel in one message; their copy is all the memory that summing takes."""

Given = TypeVar("Given")


class Team:
    """Every worker makes the same calls in the same order."""

    def __init__(self, rank: int, world_size: int, device: torch.device, is_sharded: bool = False) -> None:
        self.rank, self.world_size, self.device = rank, world_size, device
        self.mesh: DeviceMesh | None = init_device_mesh(device.type, (world_size,)) if is_sharded else None
        """Set when each worker holds but a share of the weights: then all go through the model together."""

    def sum(self, values: Tensor) -> Tensor:
        """Over the workers, on the CPU."""
        return self._reduced(values, torch.distributed.ReduceOp.SUM)

    def least(self, number: int) -> int:
        return int(self._reduced(torch.tensor(number), torch.distributed.ReduceOp.MIN))

    def any(self, is_so: bool) -> bool:
        """Whether it is so for one of the workers."""
        return self.least(-int(is_so)) < 0

    def together(self, work: Callable[[], Given]) -> Given:
        """Runs work; an error of ours on one worker is raised on all of them, for the others would wait for ever."""
        if self.world_size == 1:
            return work()
        try:
            found, error = work(), None
        except LuthierError as raised:
            found, error = None, raised
        if self.sum(torch.tensor([float(error is not None)])):
            errors: list[Any] = [None] * self.world_size
            torch.distributed.all_gather_object(errors, error)
            raise next(each for each in errors if each is not None)
        return found  # type: ignore[return-value]  # without an error there is one

    def passes(self, batch: Batch, max_tokens: int) -> list[Batch]:
        """This worker's passes; with shared weights as many as the worker with the most has, some of them empty."""
        parts = list(batch.passes(max_tokens))
        if self.mesh is not None:
            most = -self.least(-len(parts))
            parts += [pack([])] * (most - len(parts))
        return parts

    def sum_gradients(self, parameters: list[Parameter]) -> None:
        """Over the workers, in place."""
        if self.mesh is not None:  # summed on the way back, as a mean
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], self.world_size)
        elif self.world_size > 1:
            for some in _groups(parameters):
                _sum_in_one_message(some)

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        if self.world_size == 1:
            return values
        values = values.to(self.device)
        torch.distributed.all_reduce(values, op=how)
        return values.cpu()


def _groups(parameters: list[Parameter]) -> list[list[Parameter]]:
    groups: list[list[Parameter]] = [[]]
    for p in parameters:
        if groups[-1] and sum(each.numel() for each in groups[-1]) + p.numel() > MESSAGE_WEIGHTS:
            groups.append([])
        groups[-1].append(p)
    return groups


def _sum_in_one_message(parameters: list[Parameter]) -> None:
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = torch.cat([p.grad.flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad.copy_(part.view_as(p))
