"""Safetensors by their headers, and values that are no numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save_file

from luthier.errors import InvalidInput
from luthier.platform.weights.tensors import Tensor, is_finite, read_header

VALUES = st.floats(width=16) | st.sampled_from([np.inf, -np.inf, np.nan])


def write_raw(file: Path, dtype: str, bits: np.ndarray) -> Path:
    """One tensor by its bits, for types that numpy lacks."""
    header = json.dumps({"t": {"dtype": dtype, "shape": list(bits.shape), "data_offsets": [0, bits.nbytes]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    return file


def test_a_header_tells_names_types_and_shapes(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float16)}, file, {"format": "pt"})
    header = read_header(file)
    assert {name: (each.dtype, each.shape) for name, each in header.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }
    end = file.stat().st_size
    assert sorted(each.start for each in header.values()) == [end - 32, end - 8]


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04pickle", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}x", b"\0" * 8])
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"^a.safetensors is no safetensors file, or not a whole one"):
        read_header(file)


def test_a_file_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32)}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match="not a whole one"):
        read_header(file)


@pytest.mark.parametrize("kind", ["float16", "float32"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=arrays(np.float16, array_shapes(max_dims=2, max_side=6), elements=VALUES))
def test_finite_is_what_numpy_calls_so(tmp_path: Path, kind: str, values: np.ndarray) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"before": np.full(3, np.nan, np.float32), "t": values.astype(kind)}, file)
    assert is_finite(file, read_header(file)["t"]) == bool(np.isfinite(values).all())


@pytest.mark.parametrize(
    ("bits", "finite"),
    [(0x0000, True), (0x7F7F, True), (0xFF7F, True), (0x7F80, False), (0xFF80, False), (0x7FC0, False)],
)
def test_finite_bfloat16(tmp_path: Path, bits: int, finite: bool) -> None:
    file = write_raw(tmp_path / "a.safetensors", "BF16", np.array([[0x3F80, bits]], "<u2"))
    tensor = read_header(file)["t"]
    assert tensor == Tensor("BF16", (1, 2), tensor.start)
    assert is_finite(file, tensor) is finite
