"""What the trainer says of its adapter, for whoever loads it."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from luthier.platform.options import Method
from luthier.platform.run_files import MODEL, RunFiles
from luthier.platform.tasks import TaskType
from luthier.platform.weights.fingerprint import EXACT, Fingerprint, distance
from luthier.train.config import FitConfig
from luthier.train.fingerprint import fingerprint
from luthier.train.loop import train
from tests.scored import scores
from tests.train.conftest import for_task
from tests.train.local import Local, silent_run


def taken(config: FitConfig) -> Fingerprint:
    """By a run's end."""
    file = RunFiles(config.storage_path / config.job_id).fingerprint
    return Fingerprint.model_validate_json(file.read_text())


@pytest.mark.parametrize("task", [TaskType.INSTRUCTION_FINETUNE, TaskType.DPO])
def test_a_run_ends_with_what_peft_computes_with_its_adapter(config: FitConfig, task: TaskType, tmp_path: Path) -> None:
    local, config = Local(tmp_path / "kept"), for_task(config, task)
    (tmp_path / "kept").mkdir()
    train(config, local.worker)
    probes = taken(config)
    base = AutoModelForCausalLM.from_pretrained(config.base_dir, dtype=torch.float32)
    plain = scores(base, probes)
    tuned = scores(PeftModel.from_pretrained(base, tmp_path / "kept" / "15" / MODEL), probes)
    assert distance(tuned, [probe.tuned for probe in probes.probes]) < 1e-4
    assert distance(plain, [probe.base or () for probe in probes.probes]) < 1e-4
    assert distance(tuned, plain) > EXACT
    assert probes.fault(tuned, plain) is None
    assert all(len(probe.tuned) == len(probe.ids) - 1 for probe in probes.probes)
    assert "like its base model" in (probes.fault(plain, plain) or "")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_weights_are_measured_alone(config: FitConfig, dtype: str, tmp_path: Path) -> None:
    config = config.model_copy(update={"method": Method.FULL, "dtype": dtype})
    (tmp_path / "kept").mkdir()
    train(config, Local(tmp_path / "kept").worker)
    probes = taken(config)
    assert not probes.is_of_adapter
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "kept" / "15" / MODEL, dtype=dtype)
    assert distance(scores(own, probes), [probe.tuned for probe in probes.probes]) < (
        1e-4 if dtype == "float32" else 0.1
    )
    assert probes.fault_of_own(scores(own, probes)) is None
    base = AutoModelForCausalLM.from_pretrained(config.base_dir, dtype=torch.float32)
    assert "off what its trainer measured" in (probes.fault_of_own(scores(base, probes)) or "")


def test_a_run_that_had_ended_takes_the_same_again(config: FitConfig, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    train(config, Local(tmp_path / "kept").worker)
    first = taken(config)
    RunFiles(config.storage_path / config.job_id).fingerprint.unlink()
    train(config, Local(tmp_path, resume_from=tmp_path / "kept" / "15").worker)
    assert taken(config) == first


def test_the_weights_are_as_they_were(config: FitConfig) -> None:
    run = silent_run(config)
    before = run.model.weights()
    for name, weight in before.items():
        if "lora_B" in name:
            weight.fill_(0.01)
    run.model.take(before)
    fingerprint(run)
    after = run.model.weights()
    assert all(after[name].equal(weight) for name, weight in before.items())
    assert run.model.module.training
