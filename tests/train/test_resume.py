"""A run that stops and goes on is the run that never stopped."""

from pathlib import Path

import pytest
import torch

from luthier.platform.options import Method
from luthier.platform.tasks import TaskType
from luthier.platform.weights.lora import LoraSettings
from luthier.train.config import FitConfig
from luthier.train.loop import train
from tests.train.conftest import for_task
from tests.train.local import Local, assert_same

WITH_DROPOUT = LoraSettings(rank=4, alpha=8, dropout=0.3)


def assert_resumes(config: FitConfig, tmp_path: Path, steps: tuple[int, ...]) -> None:
    whole = Local(tmp_path / "whole")
    expected = train(config, whole.worker)
    last = expected[-1].step
    for step in steps:
        resumed = Local(tmp_path / f"from-{step}", whole.folder / str(step))
        assert_same(train(config, resumed.worker), expected, 1e-6)
        assert min(int(p.name) for p in resumed.folder.iterdir()) > step
        ours, theirs = (torch.load(run.folder / str(last) / "trainer.pt") for run in (resumed, whole))
        assert ours["weights"].keys() == theirs["weights"].keys()
        for name, weight in ours["weights"].items():
            torch.testing.assert_close(weight, theirs["weights"][name], rtol=0, atol=1e-6)


def test_within_an_epoch_and_between_two(config: FitConfig, tmp_path: Path) -> None:
    assert_resumes(config.model_copy(update={"lora": WITH_DROPOUT}), tmp_path, (4, 10))


@pytest.mark.parametrize("task", TaskType)
def test_of_every_task(config: FitConfig, tmp_path: Path, task: TaskType) -> None:
    assert_resumes(for_task(config, task, train_on="all").model_copy(update={"lora": WITH_DROPOUT}), tmp_path, (8,))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("task", [TaskType.CHAT_COMPLETION, TaskType.DPO])
def test_of_all_weights(config: FitConfig, tmp_path: Path, task: TaskType, dtype: str) -> None:
    """Exactly, though the model in the checkpoint may be rounded to bfloat16."""
    config = for_task(config, task)
    update = {"method": Method.FULL, "dtype": dtype, "learning_rate": 1e-3, "weight_decay": 0.1}
    assert_resumes(config.model_copy(update=update), tmp_path, (8,))


def test_the_optimizer_is_part_of_it(config: FitConfig, tmp_path: Path) -> None:
    """The moments decide the next step: without them the runs part."""
    whole = Local(tmp_path / "whole")
    expected = train(config, whole.worker)
    file = whole.folder / "10" / "trainer.pt"
    state = torch.load(file)
    for moments in state["moments"].values():
        moments["exp_avg"].zero_()
    torch.save(state, file)
    resumed = train(config, Local(tmp_path / "again", whole.folder / "10").worker)
    assert resumed[10].training_loss == expected[10].training_loss
    assert abs(resumed[11].training_loss - expected[11].training_loss) > 1e-5
