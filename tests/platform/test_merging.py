"""Merged weights against PEFT's own merge, and what cannot be merged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from luthier.errors import Conflict, InvalidInput
from luthier.platform.weights import merging
from luthier.platform.weights.merging import Merging
from tests.tiny_adapter import build_adapter, change_settings

TOKENS = torch.arange(5, 45).reshape(2, 20)


def merged(base_dir: Path, adapter_dir: Path, out: Path) -> Path:
    """Hugging Face's folder of both."""
    shutil.copytree(base_dir, out)
    merge = Merging(base_dir, adapter_dir)
    for name in merge.files:
        (out / name).write_bytes(b"".join(merge.read(name)))
    return out


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.float()(TOKENS).logits


def in_type(base_dir: Path, out: Path, dtype: torch.dtype, shard: str = "1GB") -> Path:
    shutil.copytree(base_dir, out, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(base_dir, dtype=dtype).save_pretrained(out, max_shard_size=shard)
    return out


@pytest.mark.parametrize("given", [{}, {"use_rslora": True, "r": 4}, {"target_modules": ["q_proj", "down_proj"]}])
def test_it_answers_as_pefts_merge(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object]
) -> None:
    monkeypatch.setattr(merging, "BLOCK_BYTES", 1000)
    adapter = build_adapter(tiny_model, tmp_path / "adapter", **given)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(base, adapter).merge_and_unload())
    loaded = AutoModelForCausalLM.from_pretrained(merged(tiny_model, adapter, tmp_path / "out"))
    torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_keep_their_type_and_are_rounded_once(tiny_model: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    base_dir = in_type(tiny_model, tmp_path / "base", dtype, "100KB")
    adapter = build_adapter(tiny_model, tmp_path / "adapter")
    out = merged(base_dir, adapter, tmp_path / "out")
    names = sorted(file.name for file in base_dir.glob("*.safetensors"))
    assert len(names) > 1
    pairs, scale = load_file(adapter / "adapter_model.safetensors"), 2.0
    num_merged = 0
    for name in names:
        before, after = load_file(base_dir / name), load_file(out / name)
        assert list(before) == list(after)
        for key, weight in before.items():
            module = f"base_model.model.{key.removesuffix('.weight')}"
            if (a := pairs.get(f"{module}.lora_A.weight")) is None:
                assert torch.equal(after[key], weight)
                continue
            exact = weight.float() + scale * (pairs[f"{module}.lora_B.weight"] @ a)
            assert after[key].dtype is dtype
            torch.testing.assert_close(after[key], exact.to(dtype))
            assert (after[key] == exact.to(dtype)).float().mean() > 0.999  # ties and sums in another order
            num_merged += 1
    assert num_merged == 14


def test_the_header_is_the_bases_own(tiny_model: Path, tmp_path: Path) -> None:
    adapter = build_adapter(tiny_model, tmp_path / "adapter")
    out = merged(tiny_model, adapter, tmp_path / "out") / "model.safetensors"
    assert out.stat().st_size == (tiny_model / "model.safetensors").stat().st_size
    with safe_open(out, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert all(np.isfinite(opened.get_tensor(name)).all() for name in opened.keys())  # noqa: SIM118


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}])
def test_more_than_a_pair_of_matrices(tiny_model: Path, adapter: Path, changes: dict[str, object]) -> None:
    change_settings(adapter, **changes)
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        Merging(tiny_model, adapter)


def test_an_adapter_of_another_base(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    weights = load_file(tiny_model / "model.safetensors")
    narrow = {name: tensor[:, :-1].contiguous() for name, tensor in weights.items() if tensor.ndim == 2}
    save_file(narrow, other / "model.safetensors")
    with pytest.raises(Conflict, match="which the adapter changes"):
        Merging(other, adapter)


def test_a_base_without_safetensors(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="no safetensors"):
        Merging(tmp_path, adapter)


def test_a_base_in_eight_bits(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    weights = load_file(tiny_model / "model.safetensors")
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in weights.items()}
    save_file(eight, other / "model.safetensors")
    with pytest.raises(Conflict, match="F8_E4M3"):
        Merging(other, adapter)
