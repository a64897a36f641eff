"""What of a body may be long: the prompt, which the context window bounds, and what is looked at before it is kept."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from luthier.serve.dialects.cortex_bodies import CortexChatBody, InferenceBody
from luthier.serve.dialects.databricks_wire import ChatInvocation, CompletionInvocation
from luthier.serve.doors.bodies import ChatBody, CompletionBody

BOUNDS = {
    "string": ("maxLength", "enum", "const", "pattern"),
    "array": ("maxItems",),
    "object": ("maxProperties", "properties"),
}
PROMPT = {
    *("messages", "messages.content", "messages.content.text", "messages.name", "messages.tool_call_id"),
    *("messages.tool_calls", "messages.tool_calls.id", "messages.tool_calls.function.name"),
    *("messages.tool_calls.function.arguments", "tools.function.description", "tools.function.parameters"),
}
"""Counted by `prompt_size`, or by the number of messages, before they are tokenised."""
CHAT = PROMPT | {"response_format.json_schema.schema"}
"""`check_schema` counts the characters of a schema."""
TEXTS = {"prompt"}
INFERENCE = {
    *("messages", "messages.content", "messages.content_list", "messages.content_list.text", "response_format.schema"),
    *("tools", "tool_choice", "anthropic", "openai"),  # refused unless they are empty
}


def unbounded(schema: dict[str, Any], defs: dict[str, Any], place: str) -> Iterator[str]:
    if ref := schema.get("$ref"):
        schema = defs[ref.removeprefix("#/$defs/")]
    if (kind := schema.get("type")) in BOUNDS and not any(key in schema for key in BOUNDS[kind]):
        yield place
    for name, inner in schema.get("properties", {}).items():
        yield from unbounded(inner, defs, f"{place}.{name}".lstrip("."))
    keys = schema.get("propertyNames"), schema.get("additionalProperties"), schema.get("items")
    for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *(each for each in keys if each)):
        if isinstance(inner, dict):
            yield from unbounded(inner, defs, place)


@pytest.mark.parametrize(
    ("body", "long"),
    [
        (ChatBody, CHAT),
        (CortexChatBody, CHAT),
        (ChatInvocation, CHAT),
        (CompletionBody, TEXTS),
        (CompletionInvocation, TEXTS),
        (InferenceBody, INFERENCE),
    ],
)
def test_all_else_has_a_bound(body: type[BaseModel], long: set[str]) -> None:
    schema = TypeAdapter(body).json_schema()
    assert set(unbounded(schema, schema["$defs"], "")) == long
