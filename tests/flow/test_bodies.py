"""What a body may cost to be checked: lists up to their first fault, and JSON in its texts as its own."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError

from luthier.errors import InvalidValue, TooLarge
from luthier.platform.options import FinetuneOptions
from luthier.serve.dialects.cortex_bodies import InferenceBody
from luthier.serve.doors.bodies import Body, ChatBody
from luthier.serve.doors.json_size import MAX_NAMES

MANY = {"list", "tuple", "set", "frozenset"}


def kinds(of: type[Any]) -> Iterator[type[Any]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def patient_lists(schema: Any, place: str) -> Iterator[str]:
    """Those of pydantic's schema that are checked to the end, though what is in them may be wrong."""
    if isinstance(schema, dict):
        inner = schema.get("items_schema", {})
        is_list = str(schema.get("type")) in MANY and inner not in [{}, {"type": "any"}]
        if is_list and not schema.get("fail_fast"):
            yield place
        for key, value in schema.items():
            yield from patient_lists(value, f"{place}/{key}")
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from patient_lists(each, place)


def test_no_list_is_checked_beyond_its_first_fault(app: FastAPI) -> None:
    routes = [route.body_field for route in app.routes if isinstance(route, APIRoute)]
    bodies = [field.field_info.annotation for field in routes if field]
    assert len(bodies) > 30
    checked = [*bodies, *kinds(Body), InferenceBody, FinetuneOptions]
    assert [place for kind in checked for place in patient_lists(TypeAdapter(kind).core_schema, str(kind))] == []


@pytest.mark.parametrize("name", ["modalities", "messages", "stop"])
def test_few_faults_are_told(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "a"}], name: [1] * 500_000})
    assert caught.value.error_count() <= 2


def test_arguments_of_past_calls_are_counted_as_the_body_is() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": json.dumps({"a": [[]] * (MAX_NAMES // 2)})}}
    asked = {"role": "assistant", "tool_calls": [call]}

    def ask(num: int) -> None:
        ChatBody.model_validate({"model": "m", "messages": [asked] * num}).request()

    ask(1)
    with pytest.raises(TooLarge, match="names and brackets"):
        ask(2)


@pytest.mark.parametrize("arguments", ["{", '{"a": ' * 600 + "1" + "}" * 600, r'{"a": "\ud800"}'])
def test_arguments_of_past_calls_are_read_as_a_body_is(arguments: str) -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": arguments}}
    body = ChatBody.model_validate({"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]})
    with pytest.raises(InvalidValue, match="not valid JSON") as caught:
        body.request()
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"
