"""Greedy answers of a model in training, to prompts that its user wants to watch."""

from typing import NamedTuple

from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Rendering
from luthier.train.config import FitConfig
from luthier.train.model import TunedModel

MAX_NEW_TOKENS = 64


class Answers(NamedTuple):
    texts: tuple[str, ...] = ()
    num_tokens: int = 0
    """Of prompts and answers."""


def answer(model: TunedModel, prompts: Prompts, config: FitConfig, max_pass_tokens: int) -> Answers:
    """One answer to each of the run's eval_prompts, asked as its task asks. CREATE lets none be empty or long."""
    rows = [asked(text, prompts, config.rendering) for text in config.eval_prompts]
    at_once = max(1, max_pass_tokens // (max(len(ids) for ids in rows) + MAX_NEW_TOKENS))
    model.module.eval()
    written: list[list[int]] = []
    for start in range(0, len(rows), at_once):
        written += model.generate(rows[start : start + at_once], MAX_NEW_TOKENS, prompts.eos_id)
    model.module.train()
    return Answers(tuple(prompts.decode(ids) for ids in written), sum(map(len, [*rows, *written])))


def asked(text: str, prompts: Prompts, how: Rendering) -> list[int]:
    """A lone question in tokens."""
    if how.task_type.is_plain:
        return prompts.encode(text)
    return prompts.chat([{"role": "user", "content": text}])
