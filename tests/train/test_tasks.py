"""Each task's loss and gradient against a plain computation with transformers and PEFT, one row at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from luthier.platform.data.prompts import Prompts, Sample
from luthier.platform.data.rendering import Example, Rendering, num_tokens
from luthier.platform.options import BatchSize, Duration, Method, Unit
from luthier.platform.tasks import TaskType
from luthier.train.config import FitConfig
from luthier.train.data import read_examples
from luthier.train.loop import gradient, train
from luthier.train.run import Run
from tests.train.conftest import for_task
from tests.train.local import Local, alone, silent_run, silent_worker
from tests.train.plain import plain_loss

BETA = 0.3


def plain_model(run: Run) -> Any:
    """Transformers' and PEFT's own model with the weights of a run."""
    lora = run.config.lora
    base = AutoModelForCausalLM.from_pretrained(run.config.base_dir, dtype=torch.float32)
    if run.config.method is Method.LORA:
        names = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        base = get_peft_model(base, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names))
        assert {n for n, p in base.named_parameters() if p.requires_grad} == run.model.named_trainable().keys()
    base.load_state_dict(run.model.weights(), strict=False)
    return base


def moved(run: Run) -> Run:
    """Its weights are no longer those it began with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in run.model.trainable():
            weight.add_(0.05 * torch.randn_like(weight))
    return run


def assert_gradient(run: Run, expected_loss: torch.Tensor, plain: Any, rows: list[int]) -> None:
    """One step's clipped gradient is that of a mean loss, clipped."""
    loss, norm, tokens = gradient(run, run.training.share(rows, run.worker))
    expected_loss.backward()
    expected = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    expected_norm = torch.nn.utils.clip_grad_norm_(expected.values(), 1.0)
    assert loss == pytest.approx(expected_loss.item(), rel=1e-4)
    assert norm == pytest.approx(expected_norm.item(), rel=1e-3)
    assert tokens == sum(num_tokens(run.training.examples[row]) for row in rows)
    for name, p in run.model.named_trainable().items():
        torch.testing.assert_close(p.grad, expected[name].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("max_pass_tokens", [8192, 60], ids=["packed", "in passes"])
@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize(
    ("task", "train_on"),
    [
        (TaskType.CHAT_COMPLETION, "last"),
        (TaskType.CHAT_COMPLETION, "all"),
        (TaskType.INSTRUCTION_FINETUNE, "last"),
        (TaskType.CONTINUED_PRETRAIN, "last"),
    ],
)
def test_a_step_is_that_of_the_mean_over_learned_tokens(
    config: FitConfig, task: TaskType, train_on: str, method: Method, max_pass_tokens: int
) -> None:
    config = for_task(config, task, train_on=train_on).model_copy(
        update={"max_pass_tokens": max_pass_tokens, "method": method}
    )
    run, rows = moved(silent_run(config)), [3, 1, 8, 17, 5]
    plain = plain_model(run)
    chosen = [run.training.examples[row] for row in rows]
    num_learned = sum(example[0].num_learned for example in chosen)
    assert_gradient(run, sum(plain_loss(plain, example) for example in chosen) / num_learned, plain, rows)


def test_all_turns_teach_more_than_the_last(config: FitConfig) -> None:
    last, every = (
        silent_run(for_task(config, TaskType.CHAT_COMPLETION, train_on=which)).training for which in ("last", "all")
    )
    assert [e[0].ids for e in last.examples] == [e[0].ids for e in every.examples]
    assert {len(e[0].learned) for e in last.examples} == {1}
    assert {len(e[0].learned) for e in every.examples} == {1, 2, 3}


def test_plain_text_is_learned_from_its_second_token_and_cut_into_contexts(config: FitConfig, tiny_model: Path) -> None:
    how = Rendering(task_type=TaskType.CONTINUED_PRETRAIN, max_prompt=10, max_completion=6)
    config = for_task(config, TaskType.CONTINUED_PRETRAIN)
    parts = read_examples(config.train_file, Prompts(tiny_model), how)
    wholes = read_examples(config.train_file, Prompts(tiny_model), config.rendering)
    lengths = [num_tokens(whole) for whole in wholes]
    # a part of one token has nothing to predict
    assert sum(num_tokens(part) for part in parts) == sum(n - (n % 16 == 1) for n in lengths)
    assert max(num_tokens(part) for part in parts) == 16
    assert all(part[0].learned == ((1, len(part[0].ids)),) for part in parts)


def log_probability(model: Any, sample: Sample) -> torch.Tensor:
    """Of the answer, given the prompt."""
    (start, end), ids = sample.learned[0], torch.tensor([sample.ids])
    chances = model(input_ids=ids).logits[0].log_softmax(-1)
    return chances[start - 1 : end - 1].gather(1, ids[0, start:end, None]).sum()


def preference_loss(model: Any, reference: Any, pairs: list[Example]) -> torch.Tensor:
    """Rafailov et al. 2023, equation 7, as it is written there."""
    losses = []
    for chosen, rejected in pairs:
        with torch.no_grad():
            ref_chosen, ref_rejected = log_probability(reference, chosen), log_probability(reference, rejected)
        ratio_chosen = log_probability(model, chosen) - ref_chosen
        ratio_rejected = log_probability(model, rejected) - ref_rejected
        losses.append(-logsigmoid(BETA * ratio_chosen - BETA * ratio_rejected))
    return sum(losses) / len(losses)


@pytest.fixture
def dpo(config: FitConfig) -> FitConfig:
    return for_task(config, TaskType.DPO).model_copy(update={"dpo_beta": BETA})


@pytest.mark.parametrize("max_pass_tokens", [8192, 90], ids=["packed", "in passes"])
@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_a_preference_step_is_equation_7(dpo: FitConfig, method: Method, max_pass_tokens: int) -> None:
    run = silent_run(dpo.model_copy(update={"method": method, "max_pass_tokens": max_pass_tokens}))
    reference = plain_model(run)
    plain, rows = plain_model(moved(run)), [3, 1, 8, 17, 5]
    loss = preference_loss(plain, reference, [run.training.examples[row] for row in rows])
    assert abs(loss.item() - 0.6931) > 0.01
    assert_gradient(run, loss, plain, rows)


def test_preference_begins_at_ln_2_and_its_margin_grows(dpo: FitConfig, tmp_path: Path) -> None:
    history = alone(dpo)
    assert history[0].training_loss == pytest.approx(0.693147, abs=1e-4)
    assert history[-1].training_loss < 0.3
    held_out = [r.validation_loss for r in history if r.validation_loss is not None]
    assert held_out[-1] < held_out[0] < 0.693


def test_the_reference_stays_the_model_before_training(dpo: FitConfig, tmp_path: Path) -> None:
    whole = Local(tmp_path / "kept")
    train(dpo, whole.worker)
    resumed = Run(dpo, silent_worker(resume_from=whole.folder / "10"))
    assert torch.equal(resumed.training.reference, silent_run(dpo).training.reference)


def test_two_answers_count_as_one_row_of_both_lengths(dpo: FitConfig) -> None:
    one_step = Duration(num=1, unit=Unit.BATCHES)
    run = silent_run(dpo.model_copy(update={"batch": BatchSize(tokens=200), "duration": one_step}))
    rows = run.steps[0].rows.tolist()
    batch = run.training.share(rows, run.worker)
    assert len(batch.bounds) == 2 * len(rows) > 2
    assert batch.num_tokens == run.training.lengths[rows].sum() <= 200
