"""How Cortex' inference:complete writes its answers and errors. ASCII only, as OpenAI's (`serve/doors/answer.py`)."""

import json
import time
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse

from luthier.errors import AnswerCut, LuthierError, NotFound, RateLimited
from luthier.platform.wire import Choice, Chunk, Usage
from luthier.serve.dialects.cortex_bodies import InferenceBody
from luthier.serve.dialects.cortex_rules import BAD_OPTIONS, counts, in_their_words, structured
from luthier.serve.doors.faults import fault_of

REQUEST_ID = "X-Snowflake-Request-ID"


class InferenceWriter:
    """One request's answer. A stream ends with its connection: there is no last line of its own."""

    def __init__(self, request_id: str, body: InferenceBody) -> None:
        self._id = request_id
        self._is_structured = body.response_format is not None
        self._said: list[Choice] = []
        """Of a stream that is to follow a schema."""
        self._head: dict[str, Any] = {"id": request_id, "created": int(time.time()), "model": body.model}

    def whole(self, answer: Chunk) -> bytes:
        assert answer.usage is not None
        (choice,) = answer.choices
        if self._is_structured:
            structured(choice.text, choice.finish_reason)
        text = [{"type": "text", "text": choice.text}]
        message = {"role": "assistant", "content": choice.text, "content_list": text}
        choices = [{"message": message, "finish_reason": choice.finish_reason}]
        return json.dumps({**self._head, "choices": choices, "usage": counts(answer.usage)}).encode("ascii")

    def opening(self, _num_choices: int) -> bytes:
        return b""

    def lines(self, chunk: Chunk) -> bytes:
        """The counts come last, with an empty piece of text; instead an error, where JSON was asked for and cut."""
        if self._is_structured:
            self._said += chunk.choices
            if chunk.usage and (error := self._fault()):
                return self.broken(error)
        choices = chunk.choices or [Choice(index=0, text="")]
        return b"".join(self._line(choice, chunk.usage) for choice in choices)

    def broken(self, error: LuthierError) -> bytes:
        """Snowflake's client raises by the key `error`."""
        told = {"code": error.code, "message": in_their_words(error, error.message), "request_id": self._id}
        return _event({**self._head, "choices": [], "error": told})

    def _fault(self) -> AnswerCut | None:
        try:
            structured("".join(choice.text for choice in self._said), self._said[-1].finish_reason)
        except AnswerCut as error:
            return error
        return None

    def _line(self, choice: Choice, usage: Usage | None) -> bytes:
        text = choice.text
        delta = {"type": "text", "content": text, "content_list": [{"type": "text", "text": text}], "text": text}
        piece: dict[str, Any] = {"delta": delta}
        if choice.finish_reason:
            piece["finish_reason"] = choice.finish_reason
        return _event({**self._head, "choices": [piece], "usage": counts(usage) if usage else {}})


def refusal(request: Request, error: Exception) -> JSONResponse:
    """What everybody is answered, in Snowflake's form; what it documents begins with its words.

    Its Python client asks again without end after a 429: what no minute has room for is a 400.
    """
    status, told, headers = fault_of(request, error)
    message = in_their_words(error, told.message)
    if status == HTTPStatus.BAD_REQUEST and message == told.message:
        message = f"{BAD_OPTIONS}: {message}"
    if isinstance(error, NotFound) or (isinstance(error, RateLimited) and error.is_final):
        status = HTTPStatus.BAD_REQUEST
    request_id = request.state.id
    body = {"message": message, "code": told.code, "error_code": told.code, "request_id": request_id}
    return JSONResponse(body, status, {**headers, REQUEST_ID: request_id})


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode("ascii")
