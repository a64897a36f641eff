"""The bytes of an answer: as `json.dumps` would write them, and what OpenAI's client reads."""

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from luthier.errors import Unavailable
from luthier.platform.wire import Choice, Chunk, TokenLogprob, ToolCall, Usage
from luthier.serve.doors.answer import DONE, Writer

NASTY = 'he said "no"\\ \n\r\t\x00\x7f </script> \u2028 \u00e9 \U0001f600 {"a": 1}'
LONE = "\ud83d then \udc00"
USAGE = Usage(prompt_tokens=3, completion_tokens=4)
COUNTS = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
TEXTS = st.text(st.characters(codec=None))
CHOICES = st.lists(
    st.builds(Choice, index=st.integers(0, 15), text=TEXTS, finish_reason=st.sampled_from([None, "stop", "length"])),
    min_size=1,
    max_size=3,
)


def writer(is_chat: bool, model: str = "tiny", wants_usage: bool = False) -> Writer:
    with mock.patch("time.time", return_value=1_700_000_000.9):
        return Writer("req_abc", model, is_chat, wants_usage)


def head(is_chat: bool, model: str, is_piece: bool) -> dict[str, Any]:
    kind = ("chat.completion" + (".chunk" if is_piece else "")) if is_chat else "text_completion"
    return {"id": "chatcmpl-abc" if is_chat else "cmpl-abc", "object": kind, "created": 1_700_000_000, "model": model}


def ends(choice: Choice) -> dict[str, Any]:
    return {"logprobs": None, "finish_reason": choice.finish_reason}


def dumped(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def events(stream: bytes) -> list[Any]:
    *lines, rest = stream.split(b"\n\n")
    assert rest == b""
    return [json.loads(line.removeprefix(b"data: ")) for line in lines if line != b"data: [DONE]"]


@given(is_chat=st.booleans(), choices=CHOICES, model=TEXTS)
@example(is_chat=True, choices=[Choice(index=0, text=NASTY)], model=NASTY)
@example(is_chat=False, choices=[Choice(index=1, text=LONE), Choice(index=0, text=NASTY)], model=LONE)
def test_a_whole_answer(is_chat: bool, choices: list[Choice], model: str) -> None:
    def one(choice: Choice) -> dict[str, Any]:
        text = {"message": {"role": "assistant", "content": choice.text}} if is_chat else {"text": choice.text}
        return {"index": choice.index, **text, **ends(choice)}

    in_order = sorted(choices, key=lambda choice: choice.index)
    body = {**head(is_chat, model, is_piece=False), "choices": [one(choice) for choice in in_order], "usage": COUNTS}
    assert writer(is_chat, model).whole(Chunk(choices=choices, usage=USAGE)) == dumped(body)


@given(is_chat=st.booleans(), choices=CHOICES, model=TEXTS, wants_usage=st.booleans())
@example(is_chat=True, choices=[Choice(index=0, text=LONE)], model=NASTY, wants_usage=True)
def test_a_piece_of_a_stream(is_chat: bool, choices: list[Choice], model: str, wants_usage: bool) -> None:
    def one(choice: Choice) -> dict[str, Any]:
        delta = {"delta": {"content": choice.text} if choice.text else {}}
        return {"index": choice.index, **(delta if is_chat else {"text": choice.text}), **ends(choice)}

    body = {**head(is_chat, model, is_piece=True), "choices": [one(choice) for choice in choices]}
    usage = {"usage": None} if wants_usage else {}
    line = writer(is_chat, model, wants_usage).lines(Chunk(choices=choices))
    assert line == b"data: " + dumped({**body, **usage}) + b"\n\n"


@pytest.mark.parametrize("num_choices", [1, 2])
def test_a_chat_opens_with_the_role(num_choices: int) -> None:
    (event,) = events(writer(is_chat=True).opening(num_choices))
    chunk = ChatCompletionChunk.model_validate(event)
    assert [(each.index, each.delta.role, each.delta.content) for each in chunk.choices] == [
        (index, "assistant", "") for index in range(num_choices)
    ]
    assert writer(is_chat=False).opening(num_choices) == b""


@pytest.mark.parametrize("is_chat", [True, False])
def test_the_end_of_a_stream(is_chat: bool) -> None:
    last = Chunk(choices=[], usage=USAGE)
    assert writer(is_chat).lines(last) == DONE
    lines = writer(is_chat, wants_usage=True).lines(last)
    assert lines.endswith(DONE)
    (event,) = events(lines)
    assert event == {**head(is_chat, "tiny", is_piece=True), "choices": [], "usage": COUNTS}


def test_what_openai_reads() -> None:
    answer = Chunk(choices=[Choice(index=0, text=NASTY, finish_reason="stop")], usage=USAGE)
    chat = ChatCompletion.model_validate_json(writer(is_chat=True).whole(answer), strict=True)
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == (NASTY, "stop")
    assert chat.usage
    assert chat.usage.total_tokens == 7
    text = Completion.model_validate_json(writer(is_chat=False).whole(answer), strict=True)
    assert text.choices[0].text == NASTY
    (event,) = events(writer(is_chat=True).lines(Chunk(choices=answer.choices)))
    assert ChatCompletionChunk.model_validate(event).choices[0].delta.content == NASTY


def test_a_stream_that_breaks() -> None:
    (event,) = events(writer(is_chat=True).broken(Unavailable("gone \u2028 away")))
    assert event == {
        "error": {"message": "gone \u2028 away", "type": "server_error", "code": "unavailable", "param": None}
    }


TOKENS = [TokenLogprob("caf", -0.5, (("caf", -0.5), ("te", -1.25))), TokenLogprob("\u00e9", -2.0, (("e", -0.25),))]


@pytest.mark.parametrize("is_piece", [False, True])
def test_probabilities_of_a_chat(is_piece: bool) -> None:
    answer = Chunk(choices=[Choice(index=0, text="caf\u00e9", logprobs=TOKENS, finish_reason="stop")], usage=USAGE)
    made: Any
    if is_piece:
        (event,) = events(writer(is_chat=True).lines(Chunk(choices=answer.choices)))
        made = ChatCompletionChunk.model_validate(event, strict=True)
    else:
        made = ChatCompletion.model_validate_json(writer(is_chat=True).whole(answer), strict=True)
    first, second = made.choices[0].logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("caf", -0.5, [99, 97, 102])
    assert [(each.token, each.logprob, each.bytes) for each in first.top_logprobs] == [
        ("caf", -0.5, [99, 97, 102]),
        ("te", -1.25, [116, 101]),
    ]
    assert (second.bytes, second.top_logprobs[0].token) == ([195, 169], "e")


def test_probabilities_of_a_completion() -> None:
    start = TokenLogprob("<s>", None, ())
    writing = writer(is_chat=False)
    pieces = [
        Choice(index=1, text="<s>caf", logprobs=[start, TOKENS[0]]),
        Choice(index=1, text="\u00e9", logprobs=TOKENS[1:]),
    ]
    lines = [events(writing.lines(Chunk(choices=[choice]))) for choice in pieces]
    assert [event["choices"][0]["logprobs"] for (event,) in lines] == [
        {
            "text_offset": [0, 3],
            "tokens": ["<s>", "caf"],
            "token_logprobs": [None, -0.5],
            "top_logprobs": [None, {"caf": -0.5, "te": -1.25}],
        },
        {
            "text_offset": [6],
            "tokens": ["\u00e9"],
            "token_logprobs": [-2.0],
            "top_logprobs": [{"e": -0.25, "\u00e9": -2.0}],
        },
    ]


@given(tokens=st.lists(st.tuples(TEXTS, st.floats(max_value=0, allow_infinity=False, allow_nan=False)), max_size=3))
def test_any_token_is_valid_json(tokens: list[tuple[str, float]]) -> None:
    found = [TokenLogprob(token, number, tuple(tokens)) for token, number in tokens]
    for is_chat in (True, False):
        answer = Chunk(choices=[Choice(index=0, text="", logprobs=found)], usage=USAGE)
        json.loads(writer(is_chat).whole(answer))


CALLS = [
    ToolCall(index=0, id="aaaaaaaaa", name="weather", arguments='{"city": "K\u00f6ln"}'),
    ToolCall(index=1, id="bbbbbbbbb", name="add", arguments="{}"),
]


@pytest.mark.parametrize("text", ["", NASTY])
def test_a_message_that_calls_tools(text: str) -> None:
    choice = Choice(index=0, text=text, tool_calls=CALLS, finish_reason="tool_calls")
    body = writer(is_chat=True).whole(Chunk(choices=[choice], usage=USAGE))
    made = ChatCompletion.model_validate_json(body, strict=True).choices[0]
    assert (made.message.content, made.finish_reason) == (text or None, "tool_calls")
    assert [(each.id, each.type, each.function.name, each.function.arguments) for each in made.message.tool_calls] == [
        (call.id, "function", call.name, call.arguments) for call in CALLS
    ]


def test_a_call_in_pieces() -> None:
    pieces = [CALLS[0].model_copy(update={"arguments": ""}), ToolCall(index=0, arguments='{"city": ')]
    choices = [Choice(index=0, text="", tool_calls=[piece]) for piece in pieces]
    (begun,), (more,) = [events(writer(is_chat=True).lines(Chunk(choices=[choice]))) for choice in choices]
    assert begun["choices"][0]["delta"] == {
        "tool_calls": [
            {"index": 0, "id": "aaaaaaaaa", "type": "function", "function": {"name": "weather", "arguments": ""}}
        ]
    }
    assert more["choices"][0]["delta"] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": '}}]}
