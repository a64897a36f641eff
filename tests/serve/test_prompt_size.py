"""How much a request gives the model to read, before anything of it is tokenised."""

from typing import Any

import pytest

from luthier.platform.wire import CompleteRequest, ToolUse
from luthier.serve.engine import prompt_size

CALL = {"id": "id", "type": "function", "function": {"name": "f", "arguments": {"key": ["four", 1, None, {"k": True}]}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "tell", "parameters": {"enum": ["a", 2.5]}}}


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"prompt": "four"}, 4),
        ({"prompt": [1, 2, 3]}, 3),
        ({"messages": [{"role": "user", "content": "four", "name": "ann"}, {"role": "user", "content": "a"}]}, 8),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [CALL]}]},
            len("ididtypefunctionfunctionnamefargumentskeyfourk") + 3,
        ),
        (
            {"messages": [{"role": "user", "content": ""}], "tools": ToolUse(tools=[TOOL])},
            len("typefunctionfunctionnamefdescriptiontellparametersenuma") + 1,
        ),
    ],
)
def test_all_texts_count(given: dict[str, Any], size: int) -> None:
    assert prompt_size(CompleteRequest(model="m", **given)) == size
