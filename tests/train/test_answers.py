"""Answers at a checkpoint are what transformers itself would write with that checkpoint."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.platform.options import Method
from luthier.platform.tasks import TaskType
from luthier.train.answers import MAX_NEW_TOKENS, answer, asked
from luthier.train.config import FitConfig
from luthier.train.loop import train
from tests.train.conftest import for_task
from tests.train.local import Local, alone, silent_run

ASKED = ("what is the colour of thing 3?", "what is the colour of thing 4 really really ?", "hm")


def written_by_transformers(config: FitConfig, checkpoint: Path, task: TaskType) -> list[str]:
    """One prompt at a time, no padding."""
    base = config.base_dir if config.method is Method.LORA else checkpoint / "model"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if config.method is Method.LORA:
        model = PeftModel.from_pretrained(model, checkpoint / "model")
    tokenizer = AutoTokenizer.from_pretrained(config.base_dir)
    answers = []
    for text in ASKED:
        if not task.is_plain:
            turn = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)  # noqa: PLW2901
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        whole = model.generate(input_ids=ids, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        answers.append(tokenizer.decode(whole[0, ids.shape[1] :]).removesuffix(tokenizer.eos_token))
    return answers


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
@pytest.mark.parametrize("task", [TaskType.INSTRUCTION_FINETUNE, TaskType.DPO])
def test_each_checkpoint_has_its_greedy_answers(
    config: FitConfig, tmp_path: Path, task: TaskType, method: Method
) -> None:
    config = for_task(config, task).model_copy(update={"eval_prompts": ASKED, "method": method, "learning_rate": 2e-3})
    run = Local(tmp_path / "kept")
    history = train(config, run.worker)

    kept = sorted(int(p.name) for p in run.folder.iterdir())
    assert [record.step for record in history if record.answers] == kept
    for step in (2, 15):
        assert list(history[step - 1].answers) == written_by_transformers(config, run.folder / str(step), task)
    assert history[1].answers != history[14].answers


@pytest.mark.parametrize("update", [{}, {"method": Method.FULL, "dtype": "bfloat16"}], ids=["lora", "full, rounded"])
def test_prompts_in_several_groups_are_answered_alike(config: FitConfig, update: dict[str, object]) -> None:
    config = config.model_copy(update={"eval_prompts": ASKED, **update})
    run = silent_run(config)
    at_once, by_one = (answer(run.model, run.prompts, config, limit) for limit in (8192, 1))
    assert len(at_once.texts) == 3
    assert all(at_once.texts)
    assert at_once.num_tokens > sum(len(asked(text, run.prompts, config.rendering)) for text in ASKED)
    if not update:  # rounding may turn a tie
        assert at_once == by_one


def test_answering_changes_nothing(config: FitConfig) -> None:
    answering, silent = alone(config.model_copy(update={"eval_prompts": ASKED})), alone(config)
    measured = {"answers", "evaluated_tokens"}
    assert [r.model_dump(exclude=measured) for r in answering] == [r.model_dump(exclude=measured) for r in silent]
    for ours, theirs in zip(answering, silent, strict=True):
        assert (ours.evaluated_tokens > theirs.evaluated_tokens) == bool(ours.answers)
