"""What a job can teach: its task type, and the columns that its rows have. Pure."""

from collections.abc import Iterable
from enum import StrEnum


class TaskType(StrEnum):
    """Databricks' three, and preference pairs."""

    CHAT_COMPLETION = "CHAT_COMPLETION"
    """Conversations through the base model's own chat template; a prompt and its completion are one of one turn."""
    INSTRUCTION_FINETUNE = "INSTRUCTION_FINETUNE"
    """A prompt and its completion as they stand, no template; the tuned model is asked in the same way."""
    CONTINUED_PRETRAIN = "CONTINUED_PRETRAIN"
    """Plain text, every token learned."""
    DPO = "DPO"
    """A prompt with a chosen and a rejected answer, through the chat template. Rafailov et al. 2023."""

    @property
    def is_plain(self) -> bool:
        """Its models are asked without a chat template."""
        return self in (TaskType.INSTRUCTION_FINETUNE, TaskType.CONTINUED_PRETRAIN)


ALIASES = {"response": "completion"}
"""Databricks' name for a column, and ours."""

FORMATS: dict[TaskType, tuple[tuple[str, ...], ...]] = {
    TaskType.CHAT_COMPLETION: (("messages",), ("prompt", "completion")),
    TaskType.INSTRUCTION_FINETUNE: (("prompt", "completion"),),
    TaskType.CONTINUED_PRETRAIN: (("text",),),
    TaskType.DPO: (("prompt", "chosen", "rejected"),),
}
"""The columns of a row, by task; the first form whose columns are all there is taken."""


def form_of(task: TaskType, columns: Iterable[str]) -> tuple[str, ...] | None:
    """The form that these columns (in lower case) have, or None."""
    there = {ALIASES.get(name, name) for name in columns}
    return next((form for form in FORMATS[task] if set(form) <= there), None)


def forms_text(task: TaskType) -> str:
    """The columns a task wants, for a message."""
    return ", or ".join(" and ".join(form) for form in FORMATS[task])
