"""OpenAI's protocol: /v1/chat/completions, /v1/completions, /v1/models.

Wire format: platform.openai.com/docs/api-reference, as the official Python client 3.x sends and reads it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from luthier.errors import InvalidInput, LuthierError
from luthier.platform.base_models import Catalog
from luthier.platform.frozen import Frozen
from luthier.platform.models import ModelVersion
from luthier.platform.names import parse_name
from luthier.platform.wire import Choice, Chunk, CompleteRequest, Usage
from luthier.serve.deps import CallerOf, ServicesOf
from luthier.serve.services import Ask, Services

router = APIRouter(prefix="/v1", tags=["OpenAI"])


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


class _Sampling(Frozen):
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
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def to_request(self, **prompt: Any) -> CompleteRequest:
        names = ("model", "max_tokens", "seed", "n", "presence_penalty", "frequency_penalty", "top_p")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        temperature = 1.0 if self.temperature is None else self.temperature
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return CompleteRequest(**{**given, "temperature": temperature, "stop": stop, **prompt})


class ChatBody(_Sampling):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def request(self) -> CompleteRequest:
        limit = self.max_completion_tokens or self.max_tokens
        return self.to_request(messages=[message.flat() for message in self.messages], max_tokens=limit)


class CompletionBody(_Sampling):
    prompt: str | list[str]
    max_tokens: int | None = Field(16, ge=1)

    def request(self) -> CompleteRequest:
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            raise InvalidInput(f"prompt has {len(prompts)} texts: send one prompt a request.")
        return self.to_request(prompt=prompts[0])


class _Shape:
    """How one route writes its answers."""

    def __init__(self, request_id: str, model: str, is_chat: bool) -> None:
        self._chat = is_chat
        self._id = ("chatcmpl-" if is_chat else "cmpl-") + request_id.removeprefix("req_")
        self._model, self._created = model, int(time.time())

    def whole(self, answer: Chunk) -> dict[str, Any]:
        assert answer.usage is not None
        return {
            **self._head("chat.completion" if self._chat else "text_completion"),
            "choices": [self._choice(each) for each in sorted(answer.choices, key=lambda choice: choice.index)],
            "usage": _usage(answer.usage),
        }

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        """A chat stream names the role first."""
        if not self._chat:
            return []
        delta = {"role": "assistant", "content": ""}
        choices = [{"index": i, "delta": delta, "logprobs": None, "finish_reason": None} for i in range(num_choices)]
        return [{**self._chunk_head(), "choices": choices}]

    def piece(self, chunk: Chunk) -> dict[str, Any]:
        choices = []
        for choice in chunk.choices:
            text = {"delta": {"content": choice.text} if choice.text else {}} if self._chat else {"text": choice.text}
            choices.append({"index": choice.index, **text, "logprobs": None, "finish_reason": choice.finish_reason})
        return {**self._chunk_head(), "choices": choices}

    def closing(self, usage: Usage) -> dict[str, Any]:
        return {**self._chunk_head(), "choices": [], "usage": _usage(usage)}

    def _choice(self, choice: Choice) -> dict[str, Any]:
        body = {"message": {"role": "assistant", "content": choice.text}} if self._chat else {"text": choice.text}
        return {"index": choice.index, **body, "logprobs": None, "finish_reason": choice.finish_reason}

    def _chunk_head(self) -> dict[str, Any]:
        return self._head("chat.completion.chunk" if self._chat else "text_completion")

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


@router.post("/chat/completions")
async def chat_completions(request: Request, body: ChatBody, caller: CallerOf, services: ServicesOf) -> Response:
    ask = Ask(request.state.id, caller, "CHAT_COMPLETIONS", body.request())
    return await _answer(services, ask, body, _Shape(ask.id, body.model, is_chat=True))


@router.post("/completions")
async def completions(request: Request, body: CompletionBody, caller: CallerOf, services: ServicesOf) -> Response:
    ask = Ask(request.state.id, caller, "COMPLETIONS", body.request())
    return await _answer(services, ask, body, _Shape(ask.id, body.model, is_chat=False))


@router.get("/models")
def list_models(caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    """The base models served here and the caller's tuned models."""
    tuned = [_tuned(version) for version in services.registry.models.show(caller)]
    return {"object": "list", "data": [*_bases(services.catalog, services), *tuned]}


@router.get("/models/{model:path}")
def get_model(model: str, caller: CallerOf, services: ServicesOf) -> dict[str, Any]:
    for base in _bases(services.catalog, services):
        if base["id"] == model:
            return base
    name = parse_name(model, services.settings.database, services.settings.schema_name)
    return _tuned(services.registry.models.get(caller, name))


async def _answer(services: Services, ask: Ask, body: _Sampling, shape: _Shape) -> Response:
    base_model = await services.base_model_of(ask.caller, ask.request.model)
    headers = services.retirement_headers(base_model)
    if body.stream:
        chunks = services.completions.stream(base_model, ask)
        # The first piece is awaited here, so that an error still has its own status.
        first = await anext(chunks)
        lines = _stream(first, chunks, ask.request.n, shape, body.wants_usage)
        return StreamingResponse(lines, headers=headers, media_type="text/event-stream")
    return JSONResponse(shape.whole(await services.completions.whole(base_model, ask)), headers=headers)


async def _stream(
    first: Chunk, rest: AsyncIterator[Chunk], num_choices: int, shape: _Shape, wants_usage: bool
) -> AsyncIterator[str]:
    usage: dict[str, Any] = {"usage": None} if wants_usage else {}
    try:
        for opening in shape.opening(num_choices):
            yield _event({**opening, **usage})
        chunk: Chunk | None = first
        while chunk is not None:
            if chunk.choices:
                yield _event({**shape.piece(chunk), **usage})
            if chunk.usage and wants_usage:
                yield _event(shape.closing(chunk.usage))
            chunk = await anext(rest, None)
        yield "data: [DONE]\n\n"
    except LuthierError as error:  # the status is sent already: the stream itself must say what went wrong
        yield _event({"error": {"message": error.message, "type": "server_error", "code": error.code, "param": None}})
    finally:
        await _close(rest)


async def _close(chunks: AsyncIterator[Chunk]) -> None:
    """Ends the generation when the client has gone."""
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await asyncio.shield(close())


def _event(body: dict[str, Any]) -> str:
    import json

    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _usage(usage: Usage) -> dict[str, int]:
    return {**usage.model_dump(), "total_tokens": usage.total_tokens}


def _bases(catalog: Catalog, services: Services) -> list[dict[str, Any]]:
    served = (catalog.get(name) for name in services.settings.serve_base_models)
    return [{"id": base.name, "object": "model", "created": 0, "owned_by": base.hf.split("/")[0]} for base in served]


def _tuned(version: ModelVersion) -> dict[str, Any]:
    created = version.created_on // 1000
    return {
        "id": version.model,
        "object": "model",
        "created": created,
        "owned_by": version.owner,
        "root": version.base_model,
    }
