"""What OpenAI's clients send to be completed, checked and brought to the request that every door makes.

Wire format: platform.openai.com/docs/api-reference; repetition_penalty, ignore_eos and top_k, which Databricks' clients
send too, are vLLM's own. Parameters that are not here are refused, never ignored.
"""

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field

from luthier.platform.frozen import ListOf, Strict
from luthier.platform.wire import CompleteRequest
from luthier.serve.doors.json_size import JsonSize
from luthier.serve.doors.messages import AnyToolChoice, ChatMessage, Tool, allowed, forced_schema, tool_use
from luthier.serve.doors.refusals import invalid
from luthier.serve.doors.schemas import MAX_CHARACTERS, check_schema

HANDED_ON = {
    *("model", "max_tokens", "seed", "n", "presence_penalty", "frequency_penalty", "repetition_penalty"),
    *("ignore_eos", "temperature", "top_p", "top_k", "logit_bias"),
}
"""As they stand, where they are given."""
LEAST_TOP_P = 1e-6
"""Stands for 0, which vLLM does not take: the likeliest token alone."""
MAX_CHOICES = 128
"""Of one request for several prompts."""

ModelName = Annotated[str, Field(max_length=1024)]
Label = Annotated[str, Field(max_length=512)]
"""What changes nothing here; OpenAI's own are as long at the most."""
MetadataKey = Annotated[str, Field(max_length=64)]
Metadata = Annotated[dict[MetadataKey, Label], Field(max_length=16)]
Stop = Annotated[str, Field(min_length=1, max_length=4096)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Token = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class AnyText(Strict):
    type: Literal["text"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        return None


class AnyJson(Strict):
    type: Literal["json_object"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        return {}


class NamedSchema(Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=MAX_CHARACTERS)
    given: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchema(Strict):
    type: Literal["json_schema"]
    json_schema: NamedSchema

    def schema_of_answer(self) -> dict[str, Any] | None:
        return check_schema(self.json_schema.given or {}, "response_format")


class Body(Strict):
    """What both routes share."""

    model: ModelName
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    top_k: int | None = Field(None, ge=1, lt=2**31)
    stop: Stop | Annotated[ListOf[Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    n: int | None = Field(None, ge=1, le=16)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    repetition_penalty: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    ignore_eos: bool | None = None
    logit_bias: Annotated[dict[Token, Bias], Field(max_length=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @abstractmethod
    def request(self) -> CompleteRequest:
        """What is asked for, in our own words."""

    def _request(self, **more: Any) -> CompleteRequest:
        if self.stream_options and not self.stream:
            raise invalid("stream_options", "it is only allowed when 'stream' is enabled")
        given = {name: value for name, value in self.__dict__.items() if value is not None and name in HANDED_ON}
        given.setdefault("temperature", 1.0)
        if self.top_p == 0:
            given["top_p"] = LEAST_TOP_P
        if self.stop:
            given["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        given.update(more)
        return CompleteRequest(**given)


class ChatBody(Body):
    messages: ListOf[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[AnyText | AnyJson | JsonSchema, Field(discriminator="type")] | None = None
    tools: Annotated[ListOf[Tool], Field(max_length=128)] | None = None
    tool_choice: AnyToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    modalities: Annotated[ListOf[Literal["text"]], Field(max_length=8)] | None = None

    def request(self) -> CompleteRequest:
        size = JsonSize()
        more: dict[str, Any] = {"messages": [message.turn(at, size) for at, message in enumerate(self.messages)]}
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise invalid("max_tokens", "it cannot be set together with 'max_completion_tokens'")
            more["max_tokens"] = self.max_completion_tokens
        if self.logprobs or self.top_logprobs is not None:
            if not self.logprobs:
                raise invalid("top_logprobs", "it is only allowed when 'logprobs' is enabled")
            more["logprobs"] = self.top_logprobs or 0
        if self.response_format is not None:
            more["json_schema"] = self.response_format.schema_of_answer()
        if self.tools is not None or self.tool_choice is not None:
            more |= self._tools(is_held_to_schema=more.get("json_schema") is not None)
        if self.ignore_eos and more.get("json_schema") is not None:
            raise invalid("ignore_eos", "an answer that is held to a schema ends with its JSON")
        return self._request(**more)

    def _tools(self, is_held_to_schema: bool) -> dict[str, Any]:
        is_parallel = self.parallel_tool_calls is not False
        tools, choice = allowed(self.tools or [], self.tool_choice)
        use = tool_use(tools, choice, is_parallel)
        if use is None:
            return {}
        if is_held_to_schema:
            raise invalid(
                "response_format", "JSON is not held to where tools may be called; set 'tool_choice' to 'none'"
            )
        if not use.is_forced:
            return {"tools": use}
        return {"tools": use, "json_schema": forced_schema(tools, choice, is_parallel)}


class CompletionBody(Body):
    prompt: (
        str
        | Annotated[ListOf[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[ListOf[Token], Field(min_length=1)]
        | Annotated[ListOf[Annotated[ListOf[Token], Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    max_tokens: int | None = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = None

    def request(self) -> CompleteRequest:
        if self.best_of not in (None, self.n or 1):
            raise invalid("best_of", "all choices are returned, so it can be nothing else than 'n'")
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens", "it is 0 only where 'echo' is true")
        more: dict[str, Any] = {"max_tokens": 16 if self.max_tokens is None else self.max_tokens}
        many = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        if not many or len(self.prompt) == 1:
            more["prompt"] = self.prompt[0] if many else self.prompt
        elif len(self.prompt) * (self.n or 1) > MAX_CHOICES:
            raise invalid("prompt", f"a request has at most {MAX_CHOICES} choices, 'n' for each prompt")
        else:
            more["prompts"] = self.prompt
        if self.logprobs is not None:
            more["logprobs"] = self.logprobs
        if self.echo:
            more["echo"] = True
        return self._request(**more)
