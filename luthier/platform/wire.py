"""Bodies of requests and replies that are not simply a noun; shared by server and clients."""

import json
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from pydantic import Field, SkipValidation

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen, ListOf
from luthier.platform.jobs import Job, JobStatus
from luthier.platform.rates import RateState


class CreateJob(Frozen):
    """FINETUNE('CREATE', model, base_model, training_data [, validation_data [, options]])."""

    model: str
    """Name of the model to make; unqualified names resolve in the current database and schema."""
    base_model: str
    training_data: str
    """A SELECT that gives the columns of the job's task: by default messages, or prompt and completion."""
    validation_data: str | None = None
    options: dict[str, Any] | None = None


class RetuneModel(Frozen):
    """Trains a model again, from the data that it was made of: its next version."""

    model: str
    """With a version behind an @ that one's data and options; else the default's."""
    base_model: str
    promote: bool = False
    """The new version is the default as soon as it is made."""


class ReplicateModel(Frozen):
    region: str
    """By its name in the setting `regions`."""


class IfThere(StrEnum):
    """What becomes of a view of that name."""

    REFUSE = "refuse"
    REPLACE = "replace"
    KEEP = "keep"
    """And nothing is made."""


class CreateView(Frozen):
    name: str
    query: str
    """Names in it without a place are looked for in the view's own schema."""
    columns: Annotated[ListOf[str], Field(min_length=1)] | None = None
    """None: as the query calls them."""
    comment: str = ""
    is_secure: bool = False
    if_there: IfThere = IfThere.REFUSE


class RunSql(Frozen):
    statement: str = Field(max_length=1 << 20)
    """As long as Snowflake's may be."""


Turn = dict[str, Any]
"""A message as chat templates take it: texts under role, content, name, tool_call_id; objects under tool_calls."""


class ToolUse(Frozen):
    """Tools that the model is told of."""

    tools: list[dict[str, Any]]
    is_forced: bool = False
    """The answer is calls and nothing else: `json_schema` is that of `luthier.serve.doors.schemas.calls_schema`."""
    is_named: bool = False
    """One call, of the one tool that was asked for."""
    is_parallel: bool = True


class CompleteRequest(Frozen):
    """What every dialect of COMPLETE comes down to. A prompt is text as it stands, messages go through the template."""

    model: str
    prompt: SkipValidation[str | list[int] | None] = None
    """Text or tokens. Each door has looked at it, as at `prompts` and `messages`."""
    prompts: SkipValidation[list[str | list[int]] | None] = None
    """Several instead of one; each has `n` choices, and the choices of all are numbered through."""
    messages: SkipValidation[list[Turn] | None] = None
    tools: ToolUse | None = None
    max_tokens: int | None = Field(None, ge=0)
    """0: the prompt is counted alone."""
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int | None = Field(None, ge=1)
    """So many of the likeliest tokens are drawn from."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field((), max_length=16)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: int = Field(1, ge=1, le=16)
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(1.0, gt=0.0, allow_inf_nan=False)
    ignore_eos: bool = False
    json_schema: dict[str, Any] | None = None
    """The answer is JSON that follows it; {} lets any JSON object through."""
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    """How many of the likeliest tokens are told at each place, beside the one that was taken."""
    echo: bool = False
    """The prompt goes before the answer."""
    priority: int = Field(0, ge=0)
    """The engine takes the smallest first."""

    @property
    def num_choices(self) -> int:
        return self.n * len(self.prompts or (None,))


class Usage(Frozen):
    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class ToolCall(Frozen):
    """A call of a tool, or a piece of one: the first has id and name, the others go on with its arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class TokenLogprob(NamedTuple):
    """A token of an answer. The first token of a prompt has no probability."""

    token: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]
    """The likeliest at its place, best first."""


class Choice(Frozen):
    index: int
    text: str
    finish_reason: str | None = None
    tool_calls: list[ToolCall] | None = None
    logprobs: list[TokenLogprob] | None = None


class Chunk(Frozen):
    """An answer, or a piece of one. The last piece, and it alone, carries the engine's token counts."""

    choices: list[Choice]
    usage: Usage | None = None
    version: int | None = None
    """Of the tuned model that answers."""
    rates: RateState | None = None
    """How the rate limits of who asked stand; of a stream its first piece tells."""


class ErrorBody(Frozen):
    """The native error: {"error": {...}}, as OpenAI's clients read it too."""

    message: str
    type: str
    code: str
    param: str | None = None


def options_from_json(text: str | None) -> dict[str, Any] | None:
    """Options as SQL brings them: JSON text, an object's JSON, an empty string or NULL."""
    if text is None or not text.strip():
        return None
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"options is not valid JSON: {error}. Example: '{{\"max_epochs\": 3}}'") from error
    if not isinstance(options, dict):
        raise InvalidInput("options must be a JSON object, such as '{\"max_epochs\": 3}'")
    return options


def snowflake_row(job: Job) -> dict[str, Any]:
    """An element of FINETUNE('SHOW')."""
    return {"id": job.id, "status": job.status.value, "base_model": job.base_model, "created_on": job.created_on}


def snowflake_description(job: Job) -> dict[str, Any]:
    """FINETUNE('DESCRIBE'). `options` stays out: the Snowflake Python client refuses keys that it does not know."""
    described = {
        **snowflake_row(job),
        "progress": 1.0 if job.status is JobStatus.SUCCESS else job.progress.share,
        "training_data": job.training_data,
        "validation_data": job.validation_data,
    }
    if job.finished_on is not None:
        described["finished_on"] = job.finished_on
    if job.status is JobStatus.SUCCESS:
        described["model"] = job.model
        described["trained_tokens"] = job.trained_tokens
        described["training_result"] = {"validation_loss": job.validation_loss, "training_loss": job.training_loss}
    if job.error is not None:
        described["error"] = job.error.model_dump()
    return described


def native_description(job: Job, queue_position: int | None) -> dict[str, Any]:
    """The native API's job: Snowflake's description, plus what it leaves out."""
    return {
        **snowflake_description(job),
        "model": job.model,
        "options": job.options.model_dump(mode="json"),
        "progress_details": job.progress.model_dump(),
        "report": job.report,
        "evaluated_tokens": job.evaluated_tokens,
        "queue_position": queue_position,
        "attempt": job.attempt,
        "owner": job.owner,
        "started_on": job.started_on,
    }


def progress_news(job: Job) -> dict[str, Any]:
    """The part of a description that changes while a job runs."""
    described = snowflake_description(job)
    changing = ("id", "status", "progress", "error")
    news: dict[str, Any] = {name: described[name] for name in changing if name in described}
    return {**news, "attempt": job.attempt, "progress_details": job.progress.model_dump()}
