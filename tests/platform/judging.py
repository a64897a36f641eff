"""Data for the report's tests, and the terms that it is judged by."""

import json
from typing import Any

import pyarrow as pa

from luthier.platform.base_models import BaseModel
from luthier.platform.data.judge import judge
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.recipe import Terms
from luthier.platform.data.report import DataReport, Judged
from luthier.platform.options import parse_options
from luthier.platform.prices import load_prices
from luthier.platform.settings import configs_dir
from luthier.platform.tasks import TaskType

PRICES = load_prices(configs_dir() / "prices.toml")
LONG = "zxqv kjw " * 400
OVERLONG = [("a", "b"), (LONG, "b"), ("c", "d"), ("e", LONG), ("f", "g")]
# The tiny base model: 384 tokens of prompt, 128 of completion, 100 rows an epoch.


def table(num_rows: int, words: int = 1, first: int = 0) -> pa.Table:
    numbers = range(first, first + num_rows)
    prompts = [f"question {number} {'why ' * (number % 7) * words}" for number in numbers]
    return pa.table({"prompt": prompts, "completion": [f"answer {number}" for number in numbers]})


def rows_of(task: TaskType, num_rows: int) -> pa.Table:
    def row(number: int) -> dict[str, str]:
        ask, answer = f"question {number} {'why ' * (number % 7)}", f"answer {number}"
        if task is TaskType.CHAT_COMPLETION:
            turns = [("system", "s"), ("user", ask), ("assistant", answer), ("user", "and?"), ("assistant", "no")]
            return {"messages": json.dumps([{"role": role, "content": text} for role, text in turns])}
        if task is TaskType.INSTRUCTION_FINETUNE:
            return {"prompt": ask, "completion": answer}
        if task is TaskType.DPO:
            return {"prompt": ask, "chosen": answer, "rejected": "no"}
        return {"text": f"{ask} {answer} " * (1 + 40 * (number % 3))}

    return pa.Table.from_pylist([row(number) for number in range(num_rows)])


def pairs(*rows: tuple[str | None, str | None]) -> pa.Table:
    return pa.table(
        [[row[at] for row in rows] for at in (0, 1)], pa.schema([("prompt", "string"), ("completion", "string")])
    )


class Make:
    """Terms for some options, and what is judged by them."""

    def __init__(self, base: BaseModel, prompts: Prompts) -> None:
        self.base, self.prompts = base, prompts
        self.speeds: tuple[float, ...] = ()

    def __call__(self, **options: Any) -> Terms:
        """For one epoch, if nothing else is asked for."""
        options = options if {"max_epochs", "training_duration"} & set(options) else {"max_epochs": 1, **options}
        return Terms(self.base, parse_options(options), self.prompts, PRICES, self.speeds)

    def judged(self, training: pa.Table, validation: pa.Table | None = None, **options: Any) -> Judged:
        return judge(training, validation, self(**options))

    def report(self, training: pa.Table, validation: pa.Table | None = None, **options: Any) -> DataReport:
        judged = self.judged(training, validation, **options)
        assert judged.data is not None
        assert judged.report.faults == []
        return judged.report
