"""The peer of sql_complete: a process that runs vLLM's LLM.generate over texts, as an offline script does.

python -m benchmarks.sql_offline TASK RUNS. The engine has started and warmed up before the first clock runs.
"""

import sys
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from benchmarks.processes import counted
from luthier.platform.frozen import Frozen

DISTURBED = 0.2
"""More of one CPU than this, taken by processes that have no part in it."""


class Task(Frozen):
    """What is generated."""

    engine: dict[str, Any]
    warm: tuple[str, ...]
    asked: tuple[tuple[str, ...], ...]
    """Prompts, chat template and all; a call for each tuple."""
    tokens: int
    """Of an answer, at most."""
    mark: str


class Run(Frozen):
    """One statement, or one call."""

    seconds: float
    prompt_tokens: int
    completion_tokens: int
    answers: tuple[str, ...]
    cpu: dict[str, float]
    """CPU seconds by group of processes, as `counted` tells them."""

    @property
    def speed(self) -> float:
        """Rows a second."""
        return len(self.answers) / self.seconds

    @property
    def is_disturbed(self) -> bool:
        return self.cpu.get("others", 0.0) > DISTURBED * self.seconds


RUNS = TypeAdapter(tuple[Run, ...])


def generate(task: Task) -> tuple[Run, ...]:
    """The calls of a task, one after another."""
    from vllm import LLM, SamplingParams

    llm = LLM(**task.engine)
    params = SamplingParams(temperature=0.0, max_tokens=task.tokens)

    def one(texts: tuple[str, ...]) -> Run:
        with counted(task.mark) as cpu:
            began = time.perf_counter()
            outputs = llm.generate(list(texts), params, use_tqdm=False)
            seconds = time.perf_counter() - began
        return Run(
            seconds=seconds,
            prompt_tokens=sum(len(each.prompt_token_ids or ()) for each in outputs),
            completion_tokens=sum(len(each.outputs[0].token_ids) for each in outputs),
            answers=tuple(each.outputs[0].text for each in outputs),
            cpu=cpu,
        )

    one(task.warm)
    return tuple(one(texts) for texts in task.asked)


if __name__ == "__main__":
    asked, given = map(Path, sys.argv[1:])
    given.write_bytes(RUNS.dump_json(generate(Task.model_validate_json(asked.read_text()))))
