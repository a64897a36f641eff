from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from luthier.platform.options import Method
from luthier.train import mfu
from luthier.train.config import FitConfig


@pytest.fixture
def config(tmp_path: Path) -> FitConfig:
    save_file({"model.embed_tokens.weight": torch.zeros(10, 4), "a": torch.zeros(3, 4)}, tmp_path / "a.safetensors")
    save_file({"lm_head.weight": torch.zeros(10, 4)}, tmp_path / "b.safetensors")
    return FitConfig(job_id="ft_1", base_dir=tmp_path, train_file=tmp_path, storage_path=tmp_path)


def test_weights_that_multiply(config: FitConfig) -> None:
    assert mfu.num_weights(config.base_dir) == 12 + 40
    (config.base_dir / "b.safetensors").unlink()
    assert mfu.num_weights(config.base_dir) == 12 + 40  # tied: the embedding is the head


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 9.89e14),
        ("NVIDIA H100 80GB HBM3", 9.89e14),
        ("NVIDIA H100 PCIe", 7.56e14),
        ("NVIDIA A100-SXM4-80GB", 3.12e14),
        ("NVIDIA L4", 1.21e14),
        ("NVIDIA L40S", 3.62e14),
        ("NVIDIA RTX A1000", None),
        ("Tesla K80", None),
    ],
)
def test_peaks(device: str, peak: float | None) -> None:
    assert mfu.peak_of(device) == peak


def test_share_of_the_peak(config: FitConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mfu.Utilization(config).share(1e6) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    on_gpus = config.model_copy(update={"use_gpu": True, "num_workers": 2})
    assert mfu.Utilization(on_gpus).share(3.12e12) == pytest.approx(4 * 52 / 200)
    full = on_gpus.model_copy(update={"method": Method.FULL})
    assert mfu.Utilization(full).share(3.12e12) == pytest.approx(6 * 52 / 200)
