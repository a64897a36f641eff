"""How OpenAI's two routes write their answers: JSON put together from ready parts, a line for each piece of a stream.

ASCII only, as `json.dumps` writes it: lone surrogates, which UTF-8 cannot carry, reach the client too.
"""

import json
import time
from json.encoder import encode_basestring_ascii as quoted

from luthier.errors import LuthierError
from luthier.platform.wire import Choice, Chunk, TokenLogprob, ToolCall, Usage
from luthier.serve.doors.answer_logprobs import num_characters, of_chat, of_completion
from luthier.serve.doors.faults import error_body

DONE = b"data: [DONE]\n\n"
OPEN = '"logprobs":null,"finish_reason":null}'
"""The end of a choice that goes on."""


class Writer:
    """One request's answer."""

    def __init__(self, request_id: str, model: str, is_chat: bool, wants_usage: bool) -> None:
        """`wants_usage` is about streams: whole answers always carry it."""
        self._chat = is_chat
        prefix, whole, piece = (
            ("chatcmpl", "chat.completion", "chat.completion.chunk")
            if is_chat
            else ("cmpl", "text_completion", "text_completion")
        )
        self._id = f"{prefix}-{request_id.removeprefix('req_')}"
        self._whole, self._piece = (self._head(kind, int(time.time()), model) for kind in (whole, piece))
        self._wants_usage = wants_usage
        self._end = '],"usage":null}\n\n' if wants_usage else "]}\n\n"
        self._offsets: dict[int, int] = {}
        """Of the choices, where in their texts the next token begins."""

    def whole(self, answer: Chunk) -> bytes:
        assert answer.usage is not None
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        return f'{self._whole}{",".join(map(self._choice, choices))}],"usage":{_usage(answer.usage)}}}'.encode("ascii")

    def opening(self, num_choices: int) -> bytes:
        """A chat stream names the role first."""
        if not self._chat:
            return b""
        delta = '{"role":"assistant","content":""}'
        choices = (f'{{"index":{index},"delta":{delta},{OPEN}' for index in range(num_choices))
        return self._line(",".join(choices))

    def lines(self, chunk: Chunk) -> bytes:
        """A piece of a stream; the one with the counts ends it."""
        piece = self._line(",".join(map(self._delta if self._chat else self._choice, chunk.choices)))
        return (piece if chunk.choices else b"") + (self._closing(chunk.usage) if chunk.usage else b"")

    def broken(self, error: LuthierError) -> bytes:
        """The status was sent long ago: the stream itself says what went wrong."""
        return f"data: {json.dumps(error_body(error), separators=(',', ':'))}\n\n".encode("ascii")

    def _closing(self, usage: Usage) -> bytes:
        counts = f'data: {self._piece}],"usage":{_usage(usage)}}}\n\n'.encode("ascii") if self._wants_usage else b""
        return counts + DONE

    def _line(self, choices: str) -> bytes:
        return f"data: {self._piece}{choices}{self._end}".encode("ascii")

    def _choice(self, choice: Choice) -> str:
        if choice.tool_calls:
            body = f'"message":{_calling(choice.text, choice.tool_calls)}'
        else:
            text = quoted(choice.text)
            body = f'"message":{{"role":"assistant","content":{text}}}' if self._chat else f'"text":{text}'
        return f'{{"index":{choice.index},{body},{self._finish(choice)}'

    def _delta(self, choice: Choice) -> str:
        content = f'"content":{quoted(choice.text)}' if choice.text else ""
        if choice.tool_calls:
            pieces = ",".join(map(_piece, choice.tool_calls))
            content = f'{content}{"," if content else ""}"tool_calls":[{pieces}]'
        return f'{{"index":{choice.index},"delta":{{{content}}},{self._finish(choice)}'

    def _finish(self, choice: Choice) -> str:
        """The end of a choice."""
        reason, tokens = choice.finish_reason, choice.logprobs
        if tokens is None:
            return OPEN if reason is None else f'"logprobs":null,"finish_reason":{quoted(reason)}}}'
        ending = "null" if reason is None else quoted(reason)
        return f'"logprobs":{self._logprobs(tokens, choice.index)},"finish_reason":{ending}}}'

    def _logprobs(self, tokens: list[TokenLogprob], index: int) -> str:
        if self._chat:
            return of_chat(tokens)
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + num_characters(tokens)
        return of_completion(tokens, offset)

    def _head(self, kind: str, created: int, model: str) -> str:
        return f'{{"id":"{self._id}","object":"{kind}","created":{created},"model":{quoted(model)},"choices":['


def _calling(text: str, calls: list[ToolCall]) -> str:
    """A message that calls tools."""
    content, made = quoted(text) if text else "null", ",".join(f"{{{_call(each)}}}" for each in calls)
    return f'{{"role":"assistant","content":{content},"tool_calls":[{made}]}}'


def _piece(call: ToolCall) -> str:
    if call.id is None:
        return f'{{"index":{call.index},"function":{{"arguments":{quoted(call.arguments)}}}}}'
    return f'{{"index":{call.index},{_call(call)}}}'


def _call(call: ToolCall) -> str:
    function = f'{{"name":{quoted(call.name or "")},"arguments":{quoted(call.arguments)}}}'
    return f'"id":{quoted(call.id or "")},"type":"function","function":{function}'


def _usage(usage: Usage) -> str:
    return (
        f'{{"prompt_tokens":{usage.prompt_tokens},"completion_tokens":{usage.completion_tokens},'
        f'"total_tokens":{usage.total_tokens}}}'
    )
