"""What CREATE's options may say: one frozen noun, each key documented under itself. Pure."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen, TupleOf, nearest
from luthier.platform.tasks import TaskType

MAX_EVAL_PROMPTS = 16
MAX_BATCH_ROWS = 4096
MIN_BATCH_TOKENS, MAX_BATCH_TOKENS = 16, 2**24
MAX_SHOWN = 80
"""Characters of a faulty value in a message."""


class Method(StrEnum):
    """Which weights are trained, and on which base."""

    LORA = "lora"
    QLORA = "qlora"
    """LoRA on a base in 4 bits; on a GPU only."""
    FULL = "full"
    """All weights."""


class Unit(StrEnum):
    """Databricks' units of a duration."""

    EPOCHS = "ep"
    BATCHES = "ba"
    TOKENS = "tok"


class Duration(Frozen):
    """How long a run is: whole epochs, optimizer steps, or tokens through the model."""

    num: int = Field(ge=1)
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Self:
        """`3ep`, `200ba`, `1_000_000tok`."""
        found = re.fullmatch(r"(\d[\d_]{,18}) ?(ep|ba|tok)", text.strip(), re.ASCII)
        num = _number(found[1]) if found else 0
        if not found or not num:
            raise ValueError("write a duration as 3ep (epochs), 200ba (batches) or 1_000_000tok (tokens)")
        return cls(num=num, unit=Unit(found[2]))


class BatchSize(Frozen):
    """What one optimizer step takes in: so many rows, or rows up to so many tokens."""

    rows: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)

    @classmethod
    def parse(cls, value: object) -> Self:
        """8, or `16_384tok`."""
        text = value if isinstance(value, str) else str(value) if type(value) is int else ""
        found = re.fullmatch(r"(\d[\d_]{,18}) ?(tok)?", text.strip(), re.ASCII)
        num = _number(found[1]) if found else 0
        if found and found[2] and MIN_BATCH_TOKENS <= num <= MAX_BATCH_TOKENS:
            return cls(tokens=num)
        if found and not found[2] and 1 <= num <= MAX_BATCH_ROWS:
            return cls(rows=num)
        raise ValueError(
            f"write rows (8; at most {MAX_BATCH_ROWS}), tokens (16_384tok; {MIN_BATCH_TOKENS} to {MAX_BATCH_TOKENS}) "
            f"or auto"
        )


def _number(digits: str) -> int:
    return int(digits.replace("_", ""))


def _checked_duration(value: object) -> object:
    Duration.parse(value if isinstance(value, str) else "")
    return value


def _checked_batch(value: object) -> object:
    if value != "auto":
        BatchSize.parse(value)
    return value


def _checked_budget(value: object) -> str:
    """A number becomes the text that it was written as."""
    text = format(Decimal(str(value)), "f") if type(value) in (int, float) else value
    if not isinstance(text, str) or not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII):
        raise ValueError("write credits, such as 12.5, with at most six decimals")
    return text


class Learning(Frozen):
    """How weights are learned, in the same words for a job and for the trainer."""

    method: Method = Method.LORA
    """lora, qlora or full."""
    learning_rate: float = Field(5e-4, gt=0, le=0.1)
    """Its peak."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup_share: float = Field(0.03, ge=0.0, le=1.0)
    """Share of all steps in which the learning rate rises in a line."""
    weight_decay: float = Field(0.0, ge=0.0, le=1.0)
    """AdamW's."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Less memory for activations, one more forward of each layer: auto does it where a row does not fit otherwise."""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Fixes the validation split, the order of rows and the first weights."""
    dpo_beta: float = Field(0.1, gt=0.0, le=10.0)
    """DPO: how firmly the model is held to where it started."""
    eval_prompts: TupleOf[str] = Field((), max_length=MAX_EVAL_PROMPTS)
    """Answered greedily at each checkpoint; the answers are kept with the model."""


class FinetuneOptions(Learning):
    """Every key of CREATE's options, with its default."""

    task_type: TaskType = TaskType.CHAT_COMPLETION
    """What the rows are, and how the model is asked later."""
    max_epochs: int = Field(3, ge=1, le=10)
    """Passes over the training data; each pass is billed."""
    training_duration: Annotated[str, BeforeValidator(_checked_duration)] | None = None
    """Instead of max_epochs: 3ep, 200ba or 1_000_000tok."""
    batch_size: Annotated[int | str, BeforeValidator(_checked_batch)] = 8
    """Rows an optimizer step (8), tokens (16_384tok), or auto: what fits in memory, with enough steps left to learn."""
    context_length: int | None = Field(None, ge=16)
    """Longest row in tokens; at most the base model's context window, which is the default."""
    lora_rank: int = Field(16, ge=1, le=256)
    """Rank of the adapter; the base model's row says how much can be served."""
    lora_alpha: int | None = Field(None, ge=1, le=1024)
    """The adapter is scaled by alpha / rank; twice the rank when not given."""
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """On the adapter's input; above 0 training is slower."""
    lora_targets: Annotated[TupleOf[str], Field(min_length=1)] | Literal["all-linear"] | None = None
    """Last names of the modules that get an adapter (q_proj, ...), or all-linear; by default the base model's."""
    train_on: Literal["last", "all"] = "last"
    """CHAT_COMPLETION: the assistant's last turn is learned, or all of them."""
    on_overlong: Literal["truncate", "drop", "error"] = "truncate"
    """Rows beyond the base model's prompt or completion share: cut as Snowflake does, left out, or refused."""
    budget_credits: Annotated[str, BeforeValidator(_checked_budget)] | None = None
    """The most that the job may cost."""
    on_budget: Literal["refuse", "shorten"] = "refuse"
    """A job that would cost more: refused, or ended before it does, with the model it has by then."""
    continue_from: str | None = Field(None, min_length=1)
    """A model of yours, or the id of a stopped job, whose weights the run begins with."""
    new_version: bool = False
    """A model of that name that is there gets its next version; otherwise that is a conflict."""
    promote: bool = False
    """The new version is the model's default as soon as it is made."""
    priority: Literal["low", "normal", "high"] = "normal"
    """Jobs of a higher one start first."""
    num_workers: int | None = Field(None, ge=1, le=1024)
    """Training processes; by default the base model's GPUs where there are any, else 1."""
    max_workers: int | None = Field(None, ge=2, le=1024)
    """Up to so many of them while there is room; num_workers are enough to go on."""

    @property
    def duration(self) -> Duration:
        if self.training_duration is not None:
            return Duration.parse(self.training_duration)
        return Duration(num=self.max_epochs, unit=Unit.EPOCHS)

    @property
    def batch(self) -> BatchSize | None:
        """None is auto."""
        return None if self.batch_size == "auto" else BatchSize.parse(self.batch_size)

    @property
    def alpha(self) -> int:
        return self.lora_alpha or 2 * self.lora_rank


OTHER_NAMES = {
    "train_data_path": "the argument training_data",
    "eval_data_path": "the argument validation_data",
    "register_to": "the argument model",
    "custom_weights_path": "continue_from",
    "experiment_path": "the setting mlflow_experiment",
    "epochs": "max_epochs",
    "num_train_epochs": "max_epochs",
    "lr": "learning_rate",
    "gradient_checkpointing": "activation_checkpointing",
}
"""What users of Databricks and of the common libraries call it, and its name here."""
BELONGS_TO = {"train_on": TaskType.CHAT_COMPLETION, "dpo_beta": TaskType.DPO}
"""Options that one task alone has."""


def parse_options(options: Mapping[str, Any] | None) -> FinetuneOptions:
    """Options as CREATE got them; InvalidInput names the key, the value and what is allowed. A null is not given."""
    for name in options or {}:
        if name not in FinetuneOptions.model_fields:
            raise InvalidInput(_unknown(str(name)))
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        parsed = FinetuneOptions.model_validate_json(_to_json(given), strict=True)
    except ValidationError as error:
        raise InvalidInput(_explain(error)) from error
    _check_together(parsed, given)
    return parsed


def _check_together(parsed: FinetuneOptions, given: Mapping[str, Any]) -> None:
    """What would be without effect is refused."""
    if {"max_epochs", "training_duration"} <= set(given):
        raise InvalidInput("Options max_epochs and training_duration both say how long to train: give one of them.")
    if parsed.method is Method.FULL and (lora := sorted(name for name in given if name.startswith("lora_"))):
        raise InvalidInput(f"Option {lora[0]}: method full trains all weights and has no lora_ options.")
    if parsed.promote and not parsed.new_version:
        raise InvalidInput("Option promote: a model's first version is its default; promote is for new_version.")
    if parsed.max_workers is not None and parsed.max_workers < (parsed.num_workers or 1):
        raise InvalidInput(f"Option max_workers = {parsed.max_workers}: num_workers is more, {parsed.num_workers}.")
    if "on_budget" in given and parsed.budget_credits is None:
        raise InvalidInput("Option on_budget: it says what budget_credits does, and there is none.")
    for name, task in BELONGS_TO.items():
        if name in given and parsed.task_type is not task:
            raise InvalidInput(f"Option {name}: it is for task_type {task}, and this job is {parsed.task_type}.")


def _to_json(given: dict[str, Any]) -> str:
    try:
        return json.dumps(given)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"The options are not JSON: {error}.") from error


def _unknown(name: str) -> str:
    near = [OTHER_NAMES[name]] if name in OTHER_NAMES else nearest(name, FinetuneOptions.model_fields, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"Unknown option {name[:MAX_SHOWN]!r}.{hint} Options: {', '.join(FinetuneOptions.model_fields)}."


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"] if part in FinetuneOptions.model_fields or type(part) is int)
    reason = first["msg"].removeprefix("Value error, ")
    shown = repr(first["input"])
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
    return f"Option {key} = {shown}: {reason}." if key else f"The options cannot be read: {reason}."
