"""What the body of an invocation asks for, and that what is right is read once."""

import json
from typing import Any

import pytest

from luthier.errors import InvalidValue
from luthier.serve.dialects import databricks_wire
from luthier.serve.dialects.databricks_wire import ChatInvocation, CompletionInvocation, read_invocation
from luthier.serve.doors import refusals

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"prompt": {"type": "string"}}}}}
CHAT = {"messages": [{"role": "user", "content": "a"}], "tools": [TOOL]}


def read(said: dict[str, Any]) -> Any:
    return read_invocation("tiny", ChatInvocation, json.dumps(said).encode())


@pytest.mark.parametrize("prompt", ["a", [1, 2], ["a", "b"], [[1], [2, 3]]])
def test_a_completion_is_parsed_once_and_its_prompt_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, prompt: Any
) -> None:
    monkeypatch.delattr(databricks_wire, "parsed")
    monkeypatch.delattr(refusals, "parsed")
    body = read({"prompt": prompt})
    assert isinstance(body, CompletionInvocation)
    request = body.request()
    assert (request.prompt or request.prompts) is body.prompt
    assert body.prompt == prompt


@pytest.mark.parametrize(
    ("given", "most"), [({}, 16), ({"max_tokens": None}, 16), ({"max_tokens": 0, "echo": True}, 0)]
)
def test_how_many_tokens_a_completion_asks_for(given: dict[str, Any], most: int) -> None:
    assert read({"prompt": "a", **given}).request().max_tokens == most


def test_a_prompt_that_is_null_is_none() -> None:
    assert isinstance(read({**CHAT, "prompt": None}), ChatInvocation)
    with pytest.raises(InvalidValue, match="Missing required parameter: 'messages'"):
        read({"prompt": None})


def test_a_prompt_that_stands_deeper_makes_no_completion() -> None:
    body = read(CHAT)
    assert isinstance(body, ChatInvocation)
    assert body.model == "tiny"
