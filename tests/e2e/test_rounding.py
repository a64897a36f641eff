"""The real small base model with an adapter that was measured in float32, asked in bfloat16: whole, and parts of it."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from luthier.cli.cluster import fetch_base_model
from luthier.platform.base_models import load_catalog
from luthier.platform.data.rendering import Rendering
from luthier.platform.settings import Settings
from luthier.platform.tasks import TaskType
from luthier.platform.weights.fingerprint import Fingerprint
from luthier.platform.weights.lora import LoraSettings
from luthier.train.config import FitConfig
from luthier.train.fingerprint import fingerprint
from tests.e2e.live import REAL
from tests.scored import scores
from tests.train.local import silent_run

pytestmark = [pytest.mark.e2e, pytest.mark.real_model, pytest.mark.timeout(600)]

STRENGTH = 0.05
"""Standard deviation of the adapter's second halves: an effect of some tenths of a nat, small enough for doubt."""


class Rounded:
    """The trainer's measure, and an engine of transformers and PEFT."""

    def __init__(self, base_dir: Path, folder: Path) -> None:
        pq.write_table(pa.Table.from_pylist([{"prompt": "a", "completion": "b"}]), folder / "rows.parquet")
        config = FitConfig(
            job_id="ft_1",
            base_dir=base_dir,
            train_file=folder / "rows.parquet",
            storage_path=folder,
            rendering=Rendering(task_type=TaskType.CHAT_COMPLETION),
            lora=LoraSettings(rank=8, alpha=16),
            dtype="float32",
        )
        run = silent_run(config)
        torch.manual_seed(1)
        weights = {n: w.normal_(std=STRENGTH) if "lora_B" in n else w for n, w in run.model.weights().items()}
        run.model.take(weights)
        run.model.save(folder / "adapter", weights)
        self.taken: Fingerprint = fingerprint(run)
        base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.bfloat16)
        self._engine = PeftModel.from_pretrained(base, folder / "adapter", autocast_adapter_dtype=False)
        with self._engine.disable_adapter():
            self._base = scores(self._engine, self.taken)

    @torch.no_grad()
    def found(self, lost: str = "^$") -> tuple[str | None, str | None]:
        """Fault and doubt when the modules of these names have no adapter."""
        halves = [p for name, p in self._engine.named_parameters() if "lora_B" in name and re.search(lost, name)]
        kept = [p.clone() for p in halves]
        for p in halves:
            p.zero_()
        tuned = scores(self._engine, self.taken)
        for p, weight in zip(halves, kept, strict=True):
            p.copy_(weight)
        return self.taken.fault(tuned, self._base), self.taken.doubt(tuned, self._base)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Rounded:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    base_dir = fetch_base_model(settings, load_catalog(settings).get(REAL), print)
    return Rounded(base_dir, tmp_path_factory.mktemp("run"))


def test_what_rounding_leaves_is_proved(rounded: Rounded) -> None:
    assert rounded.found() == (None, None)


@pytest.mark.parametrize(
    "lost",
    [r"mlp", r"self_attn", r"layers\.(\d|1[0-4])\.", r"layers\.(1[5-9]|2\d)\.", r"layers\.\d?[13579]\.", r"down_proj"],
)
def test_what_is_applied_in_part_is_refused(rounded: Rounded, lost: str) -> None:
    fault, doubt = rounded.found(lost)
    assert "nats off what its trainer measured" in (fault or "")
    assert "are not there" in (doubt or "")
