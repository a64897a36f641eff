from pathlib import Path

import pytest

from luthier.errors import BadDataset
from luthier.train.config import FitConfig
from luthier.train.loop import train
from tests.train.local import Local, alone, assert_same, silent_run


def test_a_run_learns_evaluates_and_keeps_checkpoints(config: FitConfig, tmp_path: Path) -> None:
    run = Local(tmp_path / "kept")
    history = train(config, run.worker)

    assert [(r.step, r.epoch) for r in history] == [(s, (s - 1) // 5 + 1) for s in range(1, 16)]
    held_out = {r.step: r.validation_loss for r in history if r.validation_loss is not None}
    assert list(held_out) == [5, 10, 15]
    assert held_out[15] < held_out[5] < history[0].training_loss
    assert {r.step: r.evaluated_tokens > 0 for r in history} == {r.step: r.step in held_out for r in history}
    held_out_tokens = int(silent_run(config).validation.lengths.sum())
    assert {r.evaluated_tokens for r in history} == {0, held_out_tokens}
    assert len({sum(r.num_tokens for r in history if r.epoch == epoch) for epoch in (1, 2, 3)}) == 1
    assert run.reported == [(step, 15) for step in range(1, 16)]
    assert sorted(int(p.name) for p in run.folder.iterdir()) == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert run.kinds() == ["MODEL_INITIALIZED", "DATA_VALIDATED", "TRAIN_STARTED", *9 * ["CHECKPOINT_SAVED"]]
    assert sorted(p.name for p in (config.storage_path / config.job_id).iterdir()) == ["fingerprint.json"]


def test_a_finished_run_only_tells_its_history(config: FitConfig, tmp_path: Path) -> None:
    whole = Local(tmp_path / "whole")
    expected = train(config, whole.worker)
    again = Local(tmp_path / "again", whole.folder / "15")
    assert train(config, again.worker) == expected
    assert again.reported == whole.reported
    assert not again.folder.exists()


def test_passes_do_not_change_a_step(config: FitConfig, tmp_path: Path) -> None:
    expected = alone(config)
    assert_same(alone(config.model_copy(update={"max_pass_tokens": 40})), expected, 1e-3)


def test_missing_data_is_the_users_fault(config: FitConfig, tmp_path: Path) -> None:
    with pytest.raises(BadDataset):
        alone(config.model_copy(update={"train_file": tmp_path / "gone.parquet"}))
