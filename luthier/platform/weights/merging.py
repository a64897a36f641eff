"""A base model's weights with an adapter merged in: W + scale * B A in fp32, rounded to the base's own type. No torch.

The files keep their names, tensors and order, so that they can be sent while they are computed, some rows at a time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.errors import Conflict, InvalidInput, NotFetched
from luthier.platform.weights.adapter_files import (
    PREFIX,
    SETTINGS,
    WEIGHTS,
    A,
    B,
    adapter_of,
    current_tensor,
    read_settings,
    read_tensors,
)
from luthier.platform.weights.base_shapes import linear_names, weight_files
from luthier.platform.weights.lora import Shape
from luthier.platform.weights.tensors import Tensor, read_header

BLOCK_BYTES = 8 << 20
"""Of one tensor in fp32, or of what is copied, at a time."""
CHANGING = ("use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern", "alpha_pattern", "trainable_token_indices")
"""Settings by which an adapter is more than a pair of matrices on each of its modules."""
STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Matrix = NDArray[np.float32]


class Pair(NamedTuple):
    """The two halves of an adapter on one module, as they lie in its file."""

    a: Tensor
    b: Tensor


class Merging:
    """Made when the two fit; raises when they do not."""

    def __init__(self, base_dir: Path, adapter_dir: Path) -> None:
        self.files = {file.name: file for file in weight_files(base_dir)}
        if not self.files:
            raise NotFetched(
                f"The base model has no safetensors in {base_dir.name} to merge with: `luthier base-models fetch` "
                "fetches them."
            )
        self._weights, self._halves = adapter_dir / WEIGHTS, read_tensors(adapter_dir)
        settings = read_settings(adapter_dir)
        _check_plain(settings)
        adapter = adapter_of(settings, self._halves)
        self._scale = np.float32(adapter.scale)
        self._headers = {name: read_header(file) for name, file in self.files.items()}
        tensors = {name: tensor for header in self._headers.values() for name, tensor in header.items()}
        self._modules = linear_names(tensors)
        there = {module: tensors[name] for name, module in self._modules.items()}
        for module, shape in adapter.modules.items():
            _check_fits(module, shape, there.get(module))
        self._pairs = self._paired(set(adapter.modules))

    def read(self, name: str) -> Iterator[bytes]:
        """One of the files, merged: as many bytes as the base's own."""
        file, header = self.files[name], self._headers[name]
        at = 0
        for tensor_name, tensor in sorted(header.items(), key=lambda item: item[1].start):
            yield from _copied(file, at, tensor.start)
            at = tensor.start
            if pair := self._pairs.get(self._modules.get(tensor_name, "")):
                yield from self._merged(file, tensor, pair)
                at += _num_bytes(tensor)
        yield from _copied(file, at, file.stat().st_size)

    def _merged(self, file: Path, tensor: Tensor, pair: Pair) -> Iterator[bytes]:
        a = _rows(self._weights, pair.a, 0, pair.a.shape[0])
        num_rows = max(1, BLOCK_BYTES // (4 * tensor.shape[1]))
        for start in range(0, tensor.shape[0], num_rows):
            end = min(start + num_rows, tensor.shape[0])
            delta = (_rows(self._weights, pair.b, start, end) @ a) * self._scale
            yield _stored(_rows(file, tensor, start, end) + delta, tensor.dtype)

    def _paired(self, modules: set[str]) -> dict[str, Pair]:
        halves = {current_tensor(name): tensor for name, tensor in self._halves.items()}
        return {module: Pair(halves[f"{PREFIX}{module}{A}"], halves[f"{PREFIX}{module}{B}"]) for module in modules}


def _check_plain(settings: dict[str, Any]) -> None:
    given = next((key for key in CHANGING if settings.get(key)), None)
    if given or settings.get("bias", "none") != "none":
        raise InvalidInput(f"{SETTINGS}: {given or 'bias'} is set, and such an adapter cannot be merged here.")


def _check_fits(module: str, shape: Shape, weight: Tensor | None) -> None:
    if weight is None or weight.shape != shape:
        size = f"{shape[0]} x {shape[1]}"
        raise Conflict(f"The base model has no {module} of {size}, which the adapter changes.")
    if weight.dtype not in STORED:
        raise Conflict(f"The base model's {module} is {weight.dtype}: only {', '.join(STORED)} can be merged with.")


def _copied(file: Path, start: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        opened.seek(start)
        while start < end:
            part = opened.read(min(BLOCK_BYTES, end - start))
            if not part:
                raise Conflict(f"{file.name} of the base model ends before its tensors do: fetch it anew.")
            start += len(part)
            yield part


def _rows(file: Path, tensor: Tensor, start: int, end: int) -> Matrix:
    """Some rows of a matrix, in fp32."""
    kind, width = np.dtype(STORED[tensor.dtype]), tensor.shape[1]
    offset = tensor.start + start * width * kind.itemsize
    found = np.fromfile(file, kind, (end - start) * width, offset=offset).reshape(end - start, width)
    if tensor.dtype == "BF16":
        return (found.astype("<u4") << 16).view("<f4")
    return found.astype("<f4", copy=False)


def _stored(values: Matrix, dtype: str) -> bytes:
    """Rounded to the nearest, ties to even."""
    if dtype != "BF16":
        return bytes(values.astype(STORED[dtype]).data)
    bits = values.view("<u4")
    return bytes(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").data)


def _num_bytes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape)) * np.dtype(STORED[tensor.dtype]).itemsize
