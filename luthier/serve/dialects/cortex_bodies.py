"""What Snowflake's REST clients send to be completed, checked and brought to the request that every door makes.

Wire format: cortex-inference.yaml in github.com/snowflakedb/snowflake-rest-api-specs. Its Python client sends each
field, null where it is not set.
"""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from luthier.errors import InvalidInput, UnsupportedParameter
from luthier.platform.frozen import ListOf, Strict
from luthier.platform.wire import CompleteRequest
from luthier.serve.dialects.cortex_rules import ResponseFormat, asked_limit, check_turns, no_guard
from luthier.serve.doors.bodies import LEAST_TOP_P, ChatBody, Label, ModelName
from luthier.serve.doors.messages import TextPart


class Turn(Strict):
    role: Literal["system", "user", "assistant"] = "user"
    content: str | None = None
    content_list: ListOf[TextPart] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        """Answers have both, and come back so."""
        if self.content is None and not self.content_list:
            raise ValueError("content or content_list is missing")
        if self.content is not None and self.content_list and self.content != self._listed:
            raise ValueError("content and content_list say different things")
        return self

    def flat(self) -> dict[str, str]:
        return {"role": self.role, "content": self._listed if self.content is None else self.content}

    @property
    def _listed(self) -> str:
        return "".join(part.text for part in self.content_list or ())


class Guardrails(Strict):
    enabled: bool = False
    response_when_unsafe: str | None = Field(None, max_length=4096)


class InferenceBody(Strict):
    """POST inference:complete. Parameters that are not here are refused, never ignored."""

    model: ModelName
    messages: ListOf[Turn] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    max_tokens: int | None = Field(None, ge=0)
    max_output_tokens: int | None = Field(None, ge=0)
    response_format: ResponseFormat | None = None
    guardrails: Guardrails | None = None
    stream: bool | None = True
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None
    provisioned_throughput_id: Label | None = None
    anthropic: dict[str, Any] | None = None
    openai: dict[str, Any] | None = None

    @field_validator("stream")
    @classmethod
    def _streamed(cls, stream: bool | None) -> bool:
        return stream is not False

    def request(self) -> CompleteRequest:
        """What is asked for, in our own words."""
        self._check_had()
        check_turns([turn.role for turn in self.messages])
        return CompleteRequest(
            model=self.model,
            messages=[turn.flat() for turn in self.messages],
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else max(self.top_p, LEAST_TOP_P),
            max_tokens=asked_limit(self.max_tokens, self.max_output_tokens),
            json_schema=self.response_format.json_schema if self.response_format else None,
        )

    def _check_had(self) -> None:
        if self.guardrails and self.guardrails.enabled:
            raise no_guard()
        for name in ("tools", "tool_choice", "provisioned_throughput_id", "anthropic", "openai"):
            if getattr(self, name):
                raise InvalidInput(f"{name}: this route does not take it here: leave it out.")


class CortexChatBody(ChatBody):
    """OpenAI's chat under Cortex' path, where max_completion_tokens is the only limit."""

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _has_another_name(cls, limit: Any) -> None:
        if limit is not None:
            told = "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead."
            raise UnsupportedParameter(told, param="max_tokens")


def read_inference(kind: type[InferenceBody], body: bytes) -> InferenceBody:
    """Its faults are told in pydantic's words."""
    return kind.model_validate_json(body)
