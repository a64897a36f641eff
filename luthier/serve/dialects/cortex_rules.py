"""What Snowflake's doors share, REST and SQL: who speaks in turn, structured output, limits, what is not had here.

Rules: docs.snowflake.com, COMPLETE (SNOWFLAKE.CORTEX) and Cortex REST API.
"""

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator

from luthier.errors import (
    AnswerCut,
    ContextTooLong,
    InvalidInput,
    InvalidSchema,
    InvalidValue,
    NotAllowed,
    NotFound,
    NotServed,
    Overloaded,
    PaymentRequired,
    RateLimited,
    Unavailable,
)
from luthier.platform.frozen import Frozen
from luthier.platform.wire import Usage
from luthier.serve.doors.schemas import check_schema

DEFAULT_MAX_TOKENS = 4096
BAD_OPTIONS = "invalid options object"


class ResponseFormat(Frozen):
    type: Literal["json"]
    json_schema: dict[str, Any] = Field(default_factory=dict, alias="schema")

    @field_validator("json_schema")
    @classmethod
    def _kept_to(cls, schema: dict[str, Any]) -> dict[str, Any]:
        return check_schema(schema, "response_format")


def in_their_words(error: Exception, message: str) -> str:
    """The message of an error that Snowflake documents begins with its words."""
    match error:
        case ContextTooLong(limit=limit):
            return f"max tokens of {limit} exceeded: {message}"
        case AnswerCut() | InvalidSchema():
            return f"schema validation failed: {message}"
        case InvalidValue():
            return f"{BAD_OPTIONS}: {message}"
        case PaymentRequired():
            return f"budget exceeded: {message}"
        case NotAllowed():
            return f"Not Authorized: {message}"
        case RateLimited(is_final=True):
            return f"{BAD_OPTIONS}: {message}"
        case Overloaded() | RateLimited():
            return f"too many requests: {message}"
        case Unavailable():
            return f"inference timed out: {message}"
        case NotServed():
            return f"unknown model: {message}"
        case NotFound():
            return re.sub(r"^Unknown (base )?model", "unknown model", message)
    return message


def structured(text: str, finish: str | None) -> Any:
    """The answer as the JSON that it was asked to be."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = "it was cut at max_tokens" if finish == "length" else str(error)
        raise AnswerCut(f"the answer is not complete JSON: {cut}.") from error


def check_turns(roles: Sequence[str]) -> None:
    """The system may speak first; then user and assistant in turn; the user comes last."""
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if "system" in turns:
        raise InvalidInput("messages: a system message can only be the first.")
    if not turns or turns[-1] != "user":
        raise InvalidInput("messages: the last message must be the user's.")
    for before, after in pairwise(turns):
        if before == after:
            raise InvalidInput(f"messages: {before} speaks twice in a row; user and assistant take turns.")


def asked_limit(*given: int | None) -> int | None:
    """The least of these. The default, which clients send unasked, wants no more than the context has room for."""
    limit = min((each for each in given if each is not None), default=DEFAULT_MAX_TOKENS)
    return None if limit == DEFAULT_MAX_TOKENS else limit


def no_guard() -> InvalidInput:
    return InvalidInput("guardrails: Cortex Guard is not available here, and nothing stands in for it: leave it off.")


def counts(usage: Usage) -> dict[str, int]:
    return {**usage.model_dump(), "total_tokens": usage.total_tokens}
