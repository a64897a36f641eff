"""How much a request gives the model to read, what of it holds the loop up, and which tokens are refused."""

import asyncio
import threading
from typing import Any, cast

import pytest

from luthier.errors import ContextTooLong, InvalidValue
from luthier.platform.data.prompts import Message, Prompts
from luthier.platform.wire import CompleteRequest, ToolUse
from luthier.serve.engines.inputs import MAX_INLINE_CHARS, MESSAGE_CHARS, Inputs, prompt_size

CALL = {"id": "id", "type": "function", "function": {"name": "f", "arguments": {"key": ["four", 1, None, {"k": True}]}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "tell", "parameters": {"enum": ["a", 2.5]}}}

LIMIT = 2 * MAX_INLINE_CHARS
"""Tokens of the window."""


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"prompt": "four"}, 4),
        ({"prompt": [1, 2, 3]}, 3),
        ({"messages": [{"role": "user", "content": "four", "name": "ann"}, {"role": "user", "content": "a"}]}, 8),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]},
            len("[{ididtypefunctionfunction{namefarguments{key[four{k}]}}}]") + 3,
        ),
        (
            {"messages": [{"role": "user", "content": ""}], "tools": ToolUse(tools=[TOOL])},
            len("[{typefunctionfunction{namefdescriptiontellparameters{enum[a]}}}]") + 1,
        ),
    ],
)
def test_all_texts_count(given: dict[str, Any], size: int) -> None:
    assert prompt_size(CompleteRequest(model="m", **given)) == size


class Tokenizer:
    """A character is a token; it keeps which thread was asked for how many."""

    longest_token = 1

    def __init__(self) -> None:
        self.inline: list[int] = []
        self.beside: list[int] = []

    def encode(self, text: str) -> list[int]:
        (self.inline if threading.current_thread() is threading.main_thread() else self.beside).append(len(text))
        return [1] * len(text)

    def chat(self, messages: list[Message], _tools: object = None) -> list[int]:
        return self.encode("".join(each["content"] for each in messages))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture
def inputs(tokenizer: Tokenizer) -> Inputs:
    return Inputs(cast(Prompts, tokenizer), LIMIT, last_token=9)


def asked(**given: Any) -> CompleteRequest:
    return CompleteRequest(model="m", **given)


async def read(inputs: Inputs, *requests: CompleteRequest) -> list[list[int]]:
    """All of them in one turn of the loop."""
    return await asyncio.gather(*(inputs.ids(request, is_plain=False) for request in requests))


LONG = MAX_INLINE_CHARS - MESSAGE_CHARS
TALK = [{"role": "user", "content": "a"}] * (MAX_INLINE_CHARS // MESSAGE_CHARS)


@pytest.mark.parametrize(
    ("given", "is_inline"),
    [
        ({"prompt": "a" * LONG}, True),
        ({"prompt": "a" * (LONG + 1)}, False),
        ({"messages": TALK[:-1]}, True),
        ({"messages": TALK}, False),
        ({"messages": TALK[:1], "tools": ToolUse(tools=[TOOL])}, False),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]}, False),
    ],
    ids=["a prompt", "a longer one", "messages", "many small messages", "tools", "calls"],
)
def test_what_takes_long_is_tokenised_beside_the_loop(
    inputs: Inputs, tokenizer: Tokenizer, given: dict[str, Any], is_inline: bool
) -> None:
    asyncio.run(read(inputs, asked(**given)))
    assert (len(tokenizer.inline), len(tokenizer.beside)) == (int(is_inline), int(not is_inline))


@pytest.mark.parametrize("given", [{"tools": ToolUse(tools=[TOOL])}, {"messages": [{**TALK[0], "tool_calls": [CALL]}]}])
def test_what_is_nested_is_counted_beside_the_loop(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    counted = []

    def size(request: CompleteRequest) -> int:
        counted.append(threading.current_thread() is threading.main_thread())
        return prompt_size(request)

    monkeypatch.setattr("luthier.serve.engines.inputs.prompt_size", size)
    asyncio.run(read(inputs, asked(**{"messages": TALK[:1], **given})))
    assert counted == [False]


@pytest.mark.parametrize("size", [1, 100, 3_000])
def test_a_turn_of_the_loop_tokenises_no_more_than_one_long_prompt(
    inputs: Inputs, tokenizer: Tokenizer, size: int
) -> None:
    most = MAX_INLINE_CHARS // (size + MESSAGE_CHARS)
    crowd = [asked(prompt="a" * size)] * 128

    async def two_turns() -> None:
        for turn in (1, 2):
            assert [len(ids) for ids in await read(inputs, *crowd)] == [size] * 128
            assert len(tokenizer.inline) == turn * most

    asyncio.run(two_turns())
    assert len(tokenizer.inline) + len(tokenizer.beside) == 2 * 128


@pytest.mark.parametrize("prompt", [[1, 10], [-1]])
def test_a_token_that_the_engine_has_not_is_refused(inputs: Inputs, prompt: list[int]) -> None:
    assert asyncio.run(read(inputs, asked(prompt=[0, 9]))) == [[0, 9]]
    with pytest.raises(InvalidValue, match=f"Invalid 'prompt': token id {prompt[-1]} is out of vocabulary"):
        asyncio.run(read(inputs, asked(prompt=prompt)))


@pytest.mark.parametrize("given", [{"prompt": "a" * (2 * MAX_INLINE_CHARS + 1)}, {"messages": TALK * 201}])
def test_what_cannot_fit_is_not_tokenised(inputs: Inputs, tokenizer: Tokenizer, given: dict[str, Any]) -> None:
    with pytest.raises(ContextTooLong, match="at most 16000 characters") as caught:
        asyncio.run(read(inputs, asked(**given)))
    assert caught.value.param in given
    assert tokenizer.inline == tokenizer.beside == []


@pytest.mark.parametrize(
    ("num_prompt", "given", "told"),
    [
        (LIMIT, {"max_tokens": 0, "echo": True}, "and the engine makes one more at least. Shorten the prompt."),
        (LIMIT, {}, "and the engine makes one more at least. Shorten the prompt."),
        (LIMIT, {"max_tokens": 2}, "and 2 are asked for. Shorten the prompt."),
        (LIMIT - 1, {"max_tokens": 2}, "and 2 are asked for. Shorten the prompt, or lower max_tokens."),
    ],
)
def test_what_does_not_fit_is_told_truly(inputs: Inputs, num_prompt: int, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ContextTooLong) as caught:
        inputs.sampling(asked(prompt="a", **given), num_prompt, is_streamed=False)
    assert caught.value.message == f"The context window is {LIMIT} tokens: the prompt has {num_prompt}, {told}"


@pytest.mark.parametrize("max_tokens", [0, 1, None])
def test_a_token_less_than_the_window_fits(inputs: Inputs, max_tokens: int | None) -> None:
    params = inputs.sampling(asked(prompt="a", max_tokens=max_tokens, echo=True), LIMIT - 1, is_streamed=False)
    assert params.max_tokens == 1
