"""What OpenAI's clients send to be completed, checked and brought to the request that every door makes.

Wire format: platform.openai.com/docs/api-reference; repetition_penalty and ignore_eos are vLLM's own.
"""

from abc import abstractmethod
from typing import Any, Literal

from pydantic import Field

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen
from luthier.platform.wire import CompleteRequest

OPTIONAL = (
    "model",
    "max_tokens",
    "seed",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "top_p",
)
"""Handed on where they are given."""


class StreamOptions(Frozen):
    include_usage: bool = False


class TextPart(Frozen):
    type: Literal["text"]
    text: str


class ChatMessage(Frozen):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def flat(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class Body(Frozen):
    """What both routes share. Parameters that are not here are refused, never ignored."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = Field(None, ge=1, le=16)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    repetition_penalty: float | None = Field(None, gt=0.0, allow_inf_nan=False)
    ignore_eos: bool | None = None
    logprobs: None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @abstractmethod
    def request(self) -> CompleteRequest:
        """What is asked for, in our own words."""

    def _request(self, **prompt: Any) -> CompleteRequest:
        given = {name: value for name in OPTIONAL if (value := getattr(self, name)) is not None}
        temperature = 1.0 if self.temperature is None else self.temperature
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return CompleteRequest(**{**given, "temperature": temperature, "stop": stop, **prompt})


class ChatBody(Body):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def request(self) -> CompleteRequest:
        limit = self.max_completion_tokens or self.max_tokens
        return self._request(messages=[message.flat() for message in self.messages], max_tokens=limit)


class CompletionBody(Body):
    prompt: str | list[str]
    max_tokens: int | None = Field(16, ge=1)

    def request(self) -> CompleteRequest:
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise InvalidInput(f"prompt has {len(prompts)} texts: send one prompt a request.")
        return self._request(prompt=prompts[0])
