"""A run that begins with another's weights."""

from pathlib import Path

import pytest

from luthier.errors import InvalidInput
from luthier.platform.options import Duration, Method, Unit
from luthier.platform.tasks import TaskType
from luthier.train.config import FitConfig, LoraSettings
from luthier.train.loop import evaluate, train
from tests.train.conftest import for_task
from tests.train.local import Local, alone, silent_run


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_a_run_begins_where_the_other_ended(config: FitConfig, tmp_path: Path, method: Method) -> None:
    config = config.model_copy(update={"method": method, "learning_rate": 2e-3})
    first = Local(tmp_path / "first")
    ended = train(config, first.worker)[-1].validation_loss
    from_the_start = evaluate(silent_run(config))
    second = config.model_copy(update={"continue_from": first.folder / "15" / "model", "job_id": "ft_2", "seed": 5})

    assert evaluate(silent_run(second)) == pytest.approx(ended, abs=1e-4)
    assert from_the_start > ended + 0.2
    assert alone(second)[-1].validation_loss < ended


def test_preference_holds_on_to_the_model_it_continues_from(config: FitConfig, tmp_path: Path) -> None:
    first = Local(tmp_path / "first")
    train(config, first.worker)
    dpo = for_task(config, TaskType.DPO).model_copy(update={"continue_from": first.folder / "15" / "model"})
    assert alone(dpo)[0].training_loss == pytest.approx(0.693147, abs=1e-4)


@pytest.fixture
def adapter(config: FitConfig, tmp_path: Path) -> Path:
    run = Local(tmp_path / "first")
    train(config.model_copy(update={"duration": Duration(num=1, unit=Unit.BATCHES)}), run.worker)
    return run.folder / "1" / "model"


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        (LoraSettings(rank=8, alpha=8), "another rank or other targets.*lora_rank"),
        (LoraSettings(rank=4, alpha=8, targets=("q_proj",)), "another rank or other targets.*lora_targets"),
        (LoraSettings(rank=4, alpha=16), "scaled otherwise.*lora_alpha, 8"),
    ],
)
def test_an_adapter_of_another_shape_or_scale_is_refused(
    config: FitConfig, adapter: Path, lora: LoraSettings, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        silent_run(config.model_copy(update={"continue_from": adapter, "lora": lora}))
