"""What COMPLETE and AI_COMPLETE are given besides a prompt, and what they give back.

Shapes: docs.snowflake.com, COMPLETE (SNOWFLAKE.CORTEX), AI_COMPLETE, AI_COMPLETE structured outputs.
"""

import json
import time
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen
from luthier.platform.wire import Chunk, CompleteRequest
from luthier.serve.dialects.cortex_rules import BAD_OPTIONS, ResponseFormat, asked_limit, counts, no_guard, structured

Noun = TypeVar("Noun", bound=Frozen)


class ModelParameters(Frozen):
    """Ranges and defaults as documented there."""

    temperature: float = Field(0.0, ge=0.0, le=1.0)
    top_p: float = Field(0.0, ge=0.0, le=1.0)
    max_tokens: int | None = Field(None, ge=1, le=8192)
    guardrails: bool = False

    def request(self, model: str, messages: list[dict[str, str]], shape: ResponseFormat | None) -> CompleteRequest:
        if self.guardrails:
            raise no_guard()
        return CompleteRequest(
            model=model,
            messages=messages,
            temperature=self.temperature,
            top_p=self.top_p or 1.0,
            max_tokens=asked_limit(self.max_tokens),
            json_schema=shape.json_schema if shape else None,
        )


def read_object(kind: type[Noun], given: Any) -> Noun:
    """An OBJECT, or its JSON as text. NULL leaves everything at its default, as a key that is NULL does."""
    if isinstance(given, str):
        given = _parsed(given)
    if not isinstance(given, dict | None):
        raise InvalidInput(f"{BAD_OPTIONS}: an OBJECT is wanted, such as {{'max_tokens': 100}}.")
    try:
        return kind.model_validate({key: value for key, value in (given or {}).items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{BAD_OPTIONS}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{BAD_OPTIONS}: not valid JSON: {error}.") from error


def details(model: str, answer: Chunk, is_structured: bool) -> dict[str, Any]:
    """The whole answer. The key `messages` holds text."""
    assert answer.usage is not None
    choice = answer.choices[0]
    said: dict[str, Any] = {"choices": [{"messages": choice.text}]}
    if is_structured:
        said = {"structured_output": [{"raw_message": structured(choice.text, choice.finish_reason), "type": "json"}]}
    return {**said, "created": int(time.time()), "model": model, "usage": counts(answer.usage)}
