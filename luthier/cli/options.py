"""Options and values that several commands share."""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from luthier.errors import InvalidInput
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
INTERRUPTED = 130
"""Exit status of what Ctrl-C ends, as in a shell."""
TASKS = click.Choice([task.value for task in TaskType], case_sensitive=False)
METHODS = click.Choice([method.value for method in Method], case_sensitive=False)
TRAINING_FLAGS = (
    click.option("--task-type", type=TASKS, help="What the rows are (default CHAT_COMPLETION)."),
    click.option("--method", type=METHODS, help="Which weights are trained (default lora)."),
    click.option("--max-epochs", type=int, help="Passes over the data, 1 to 10 (default 3)."),
    click.option("--training-duration", metavar="DURATION", help="Instead: 3ep, 200ba (batches), 1_000_000tok."),
    click.option("--learning-rate", type=float, help="Its peak (default 5e-4)."),
    click.option("--batch-size", metavar="SIZE", help="Of one step: rows (8), tokens (16_384tok) or auto (default 8)."),
    click.option("--context-length", type=int, help="Longest row in tokens."),
    click.option("--lora-rank", type=int, help="Rank of the adapter (default 16)."),
    click.option("--eval-prompt", "eval_prompts", multiple=True, help="Answered at each checkpoint; may be repeated."),
    click.option("--budget-credits", metavar="CREDITS", help="The most it may cost; see on_budget."),
    click.option("--continue-from", metavar="MODEL_OR_JOB", help="Whose weights the run begins with."),
    click.option("--new-version", is_flag=True, default=None, help="If the model is there, make its next version."),
    click.option("--promote", is_flag=True, default=None, help="The new version is the default once it is made."),
)


def training_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the common training options as flags; those that are not given arrive as None or ()."""
    for flag in reversed(TRAINING_FLAGS):
        command = flag(command)
    return command


def training_options(sets: tuple[str, ...], flags: dict[str, Any]) -> dict[str, Any]:
    """CREATE's options from `--set` and from flags; no option from both."""
    parsed, given = parse_set(sets), {name: value for name, value in flags.items() if value not in (None, ())}
    if twice := sorted(set(parsed) & set(given)):
        raise InvalidInput(f"Option {twice[0]} is given twice: as a flag of its own and by --set.")
    if "batch_size" in given:
        given["batch_size"] = _value(given["batch_size"])
    return {**parsed, **given}


def parse_set(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`--set key=value` options; numbers become numbers, JSON lists lists, and the rest stays text."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InvalidInput(f"--set {pair}: write key=value.")
        if name.strip() in parsed:
            raise InvalidInput(f"Option {name.strip()} is given twice by --set.")
        parsed[name.strip()] = _value(text.strip())
    return parsed


def parse_time(text: str | None) -> int | None:
    """ISO 8601 date or time (local unless it says otherwise) to epoch milliseconds."""
    if text is None:
        return None
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no date or time: write 2026-11-21 or 2026-11-21T14:00.") from error


def parse_duration(text: str | None) -> int | None:
    """90d, 12h, 30m, 45s to seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip())
    if not found:
        raise InvalidInput(f"{text!r} is no time: write a number and s, m, h or d, such as 90d.")
    return int(found[1]) * SECONDS[found[2]]


def _value(text: str) -> Any:
    for kind in (int, float, json.loads):
        try:
            value = kind(text)
        except ValueError:
            continue
        return text if isinstance(value, float) and not math.isfinite(value) else value
    return text
