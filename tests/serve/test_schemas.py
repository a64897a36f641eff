"""Schemas that answers are held to."""

import json
from typing import Any

import pytest

from luthier.errors import InvalidValue
from luthier.serve.schemas import MAX_CHARACTERS, MAX_DEPTH, MAX_PROPERTIES, calls_schema, check_schema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def wide(num: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(num)}}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        nested(MAX_DEPTH),
        wide(MAX_PROPERTIES),
        {"properties": {"not": {"type": "string"}, "contains": True}, "required": ["not"]},
        {"enum": [{"not": 1}], "default": {"if": 2}, "const": {"multipleOf": 3}},
        {"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "integer", "minimum": 1}}},
        {"anyOf": [{"type": "string", "pattern": "^(?:a|b)+$"}, {"type": "string", "maxLength": 3}]},
        {"allOf": [{"type": "object"}], "additionalProperties": False, "title": "t", "x-own": {"not": {}}},
    ],
)
def test_what_is_taken(schema: dict[str, Any]) -> None:
    check_schema(schema, "response_format")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"description": "x" * MAX_CHARACTERS}, "more than 65536 characters"),
        (nested(MAX_DEPTH + 1), "nested more than 16 deep"),
        (wide(MAX_PROPERTIES + 1), "501 properties, more than 500"),
        ({"properties": {"a": {"anyOf": [{"not": {}}]}}}, "'not' cannot be kept to (at #/properties/a/anyOf/0)"),
        ({"$defs": {"a": {"type": "number", "multipleOf": 3}}}, "'multipleOf'"),
        ({"items": {"patternProperties": {}}}, "'patternProperties' cannot be kept to (at #/items)"),
        ({"allOf": [{}, {}]}, "'allOf' of more than one"),
        ({"$ref": "https://example.com/a.json"}, "leads out of the schema"),
        ({"type": "string", "pattern": "(?=a)b"}, "looks around"),
        ({"type": "string", "pattern": "a+", "maxLength": 3}, "beside 'pattern'"),
        ({"type": "string", "format": "date", "minLength": 3}, "beside 'pattern' or 'format'"),
        ({"properties": []}, "#/properties is no object"),
        ({"anyOf": {}}, "#/anyOf is no array"),
        ({"items": 3}, "#/items is no schema"),
    ],
)
def test_what_is_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_schema(schema, "response_format")
    assert words in caught.value.message
    assert caught.value.param == "response_format"


def test_references_of_a_tool_hold_among_all_tools() -> None:
    own = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/b"}, "c": {"$ref": "#"}},
        "$defs": {"b": {"enum": [1]}},
    }
    schema = calls_schema({"f": None, "g": own}, most=1)
    moved = schema["$defs"]["tool1"]
    assert moved["properties"] == {"a": {"$ref": "#/$defs/tool1/$defs/b"}, "c": {"$ref": "#/$defs/tool1"}}
    assert (schema["minItems"], schema["maxItems"]) == (1, 1)
    assert [each["properties"]["name"] for each in schema["items"]["anyOf"]] == [{"const": "f"}, {"const": "g"}]
    assert "maxItems" not in calls_schema({"f": own})
    json.dumps(schema)
