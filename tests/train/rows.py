"""Rows of each task, of mixed lengths, that a model can learn something from."""

import json

from luthier.platform.tasks import TaskType

WORDS = ("red", "blue", "green", "gold")


def rows_of(task: TaskType, num_rows: int) -> list[dict[str, str]]:
    return [_row(task, number) for number in range(num_rows)]


def _row(task: TaskType, number: int) -> dict[str, str]:
    prompt = f"what is the colour of thing {number} {'really ' * (number % 5)}?"
    word = WORDS[number % len(WORDS)]
    if task is TaskType.CONTINUED_PRETRAIN:
        return {"text": f"{prompt} it is {word}"}
    if task is TaskType.DPO:
        return {"prompt": prompt, "chosen": word, "rejected": "ask me " + "later " * (number % 3)}
    if task is TaskType.CHAT_COMPLETION:
        turns = [("system", "be short")] * (number % 2)
        for _ in range(1 + number % 3):
            turns += [("user", prompt), ("assistant", word)]
        return {"messages": json.dumps([{"role": role, "content": text} for role, text in turns])}
    return {"prompt": prompt, "completion": word}
