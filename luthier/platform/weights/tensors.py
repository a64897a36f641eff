"""Safetensors files without torch: what tensors they hold, and whether the values are finite."""

import json
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from luthier.errors import InvalidInput

EXPONENTS = {"F32": ("<u4", 0x7F80_0000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""Of each float type, as what its bits are read and where its exponent stands: all ones are infinity or no number."""


MAX_HEADER_BYTES = 100_000_000
"""The most that the format allows."""
SHOWN = 120
"""Characters of a foreign text in a message."""


class Tensor(NamedTuple):
    dtype: str
    """As the format names it: F32, BF16, ..."""
    shape: tuple[int, ...]
    start: int
    """Byte of the file."""


def read_header(file: Path, max_bytes: int = MAX_HEADER_BYTES) -> dict[str, Tensor]:
    """The tensors of a file by name; InvalidInput when it is no safetensors file, or not a whole one.

    A header of more than `max_bytes` is not parsed.
    """
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if max_bytes < size <= file.stat().st_size:
            raise InvalidInput(f"{file.name} has a header of {size} bytes, and at most {max_bytes} are read.")
        try:
            with safe_open(file, "numpy"):  # checks lengths, types and offsets
                pass
        except SafetensorError as error:
            reason = shown(str(error))
            raise InvalidInput(f"{file.name} is no safetensors file, or not a whole one: {reason}.") from error
        header = json.loads(opened.read(size))
    return {
        name: Tensor(each["dtype"], tuple(each["shape"]), 8 + size + each["data_offsets"][0])
        for name, each in header.items()
        if name != "__metadata__"
    }


def weight_bytes(folder: Path) -> int:
    """Of all safetensors files in it."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def shown(text: str) -> str:
    """A foreign text as a message can hold it: one line, escaped, not long."""
    escaped = json.dumps(text)[1:-1]
    return escaped if len(escaped) <= SHOWN else f"{escaped[:SHOWN]}..."


def is_finite(file: Path, tensor: Tensor) -> bool:
    """Of a tensor whose type is one of EXPONENTS."""
    import numpy as np

    kind, exponent = EXPONENTS[tensor.dtype]
    count = int(np.prod(tensor.shape))
    bits = np.fromfile(file, kind, count, offset=tensor.start)
    return not bool(((bits & exponent) == exponent).any())
