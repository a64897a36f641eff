"""Schemas that answers are held to."""

import json
import sys
from contextlib import suppress
from typing import Any

import pytest

from luthier.errors import InvalidValue
from luthier.serve.doors.schema_arms import MAX_ARMS
from luthier.serve.doors.schema_costs import MAX_PROPERTIES
from luthier.serve.doors.schema_texts import MAX_LENGTH, MAX_PATTERN
from luthier.serve.doors.schema_told import for_grammar
from luthier.serve.doors.schemas import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_SCHEMAS,
    calls_schema,
    check_schema,
)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def wide(num: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(num)}}


def marked(*kinds: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"kind": {"enum": list(kinds)}, "n": True}, "required": ["kind"]}


def optional(*kinds: str) -> dict[str, Any]:
    return {**marked(*kinds), "required": []}


def requiring(name: str, inner: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: inner}, "required": [name]}


RAW = [
    *(r"^[\"]$", r'^["\\]+$', r"^[\x00-\x1f]$", r'^["-"]$', r"^[^]$", r"^[^\S ]$", r"^[^ -\u{10ffff}]$", r"^[\cJ]$"),
    *(r"^[^\W\w]$", r"^[^\D\d]$", r"^[^\D0-9]$", r"^[^\W\S]$"),
    *(r"^[\xa]$", r"\u000a", r"\u0022", r"\u{22}", r"\x22", r"\cJ", r"\0", r"\a", r"\q", r"\[\"]"),
]
"""Patterns that xgrammar writes raw, in texts that are no JSON then."""
TOGETHER: list[Any] = [
    [{"type": "integer"}, {"type": "number"}],
    [{"type": "string"}, {"const": "a"}],
    [{"const": 1}, {"const": 1.0}],
    [{"type": "string"}, {"properties": {"a": True}}],
    [{"type": "object"}, {"type": "null"}, {}],
    [marked("a", "b"), marked("b")],
    [optional("a", "b"), optional("b")],
    [optional("a"), {**optional("b"), "maxProperties": 1}],
    [optional("a"), {**optional("b"), "required": "n"}],
    [optional("a"), optional("b"), requiring("n", True)],
    [optional("a"), {**optional("b"), "type": ["object", "null"]}, {"type": "null"}],
    [{"oneOf": [optional("a"), optional("b")]}, {"oneOf": [optional("c"), optional("b")]}],
    [{"type": "string"}, {"properties": {"a": {"const": 1}}, "required": ["a"]}],
    [{"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"b": True}, "required": ["b"]}],
    [{"const": at} for at in range(MAX_ARMS + 1)],
]
"""Arms of which two may hold."""


@pytest.mark.parametrize(
    "schema",
    [
        {},
        nested(MAX_DEPTH),
        wide(MAX_PROPERTIES),
        {"properties": {"not": {"type": "string"}, "contains": True}, "required": ["not"]},
        {"enum": [{"not": 1}], "default": {"if": 2}},
        {"type": "string", "enum": ["a", "b"], "title": "t"},
        {"type": ["number", "null"], "enum": [1, 2.5, None]},
        {"type": "boolean", "const": True, "description": "x"},
        {"type": "object", "anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "object", "properties": {}}}},
        {"type": "number", "oneOf": [{"type": "integer", "minimum": 1}, {"enum": [0.5]}], "discriminator": {}},
        {"oneOf": [{"type": ["null", "string"]}, {"anyOf": [{"type": "number"}, {"const": True}]}]},
        {"oneOf": [{"enum": [1, "a"]}, {"enum": [2.0, "b"]}, {"const": True}]},
        {"oneOf": [marked("a"), {"$ref": "#/$defs/b"}], "$defs": {"b": marked("b", "c")}},
        {"oneOf": [marked("a"), optional("b")]},
        {"oneOf": [optional("a"), {"anyOf": [optional("b", "c"), optional("b")]}, {"type": "null"}]},
        {"oneOf": [{key: value for key, value in marked(kind).items() if key != "type"} for kind in "ab"]},
        {"oneOf": [requiring("a", {"type": "string"}), requiring("a", {"type": "integer"})]},
        {"oneOf": [{**requiring("a", True), "additionalProperties": False}, requiring("b", True)]},
        {"oneOf": [{"allOf": [{"$ref": "#/$defs/b"}]}, marked("a")], "$defs": {"b": marked("b")}},
        {"type": "string", "pattern": r"^[^\"\\]+[-\"][a\n]\u00e9[\x00-a]\[\.\/[\D]$"},
        *({"type": "string", "pattern": rf"^[^{held}]+$"} for held in (r"\W_", r"_\W\d", r"\W", r"\D5")),
        {"type": "string", "format": "email"},
        {"$ref": "#/$defs/a", "description": "x", "$defs": {"a": {"const": 1}}},
        {"$ref": "#/$defs/a~1~0", "$defs": {"a/~": True}},
        {"anyOf": [{"type": "null"}, {"items": {"$ref": "#/anyOf/0"}}]},
        {"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "integer", "minimum": 1}}},
        {"anyOf": [{"type": "string", "pattern": "^(?:a|b)+$"}, {"type": "string", "maxLength": 3}]},
        {"allOf": [{"type": "object"}], "title": "t", "x-own": {"not": {}}},
    ],
)
def test_what_is_taken(schema: dict[str, Any]) -> None:
    check_schema(schema, "response_format")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"description": "x" * MAX_CHARACTERS}, "more than 65536 characters"),
        (nested(MAX_DEPTH + 1), "nested more than 16 deep"),
        ({"anyOf": [{}] * MAX_SCHEMAS}, "more than 4000 schemas"),
        (wide(MAX_PROPERTIES + 1), "501 properties, more than 500"),
        ({"properties": {"a": {"anyOf": [{"not": {}}]}}}, "'not' cannot be kept to (at #/properties/a/anyOf/0)"),
        ({"$defs": {"a": {"type": "number", "multipleOf": 3}}}, "'multipleOf'"),
        ({"items": {"patternProperties": {}}}, "'patternProperties' cannot be kept to (at #/items)"),
        ({"allOf": [{}, {}]}, "'allOf' of more than one"),
        ({"$ref": "https://example.com/a.json"}, "leads out of the schema"),
        ({"$ref": "#/x-own/a", "x-own": {"a": {"not": {}}}}, "'#/x-own/a' leads to no schema"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "leads to no schema"),
        *(({"type": "string", "pattern": f"({look}a)b"}, "looks around") for look in ("?=", "?!", "?<=", "?<!")),
        *(({"type": "string", "pattern": f"({name}a)b"}, "names a group or") for name in ("?i:", "?P<a>", "?<a>")),
        ({"type": "string", "pattern": "a" * (MAX_PATTERN + 1)}, "'pattern' has more than 4000 characters"),
        ({"type": "string", "pattern": "[" * MAX_PATTERN}, "has a '[' that is not closed"),
        ({"$ref": "#foo"}, "leads to no schema"),
        *(({"anyOf": [{"$ref": f"#/anyOf/{at}"}]}, "leads to no schema") for at in ("1", "01", "-1", "", "9" * 5_000)),
        ({"type": "string", "pattern": "a+", "maxLength": 3}, "beside 'pattern'"),
        ({"type": "string", "pattern": '^a"c$'}, "asks for a quote"),
        ({"type": "string", "pattern": r"^a\n$"}, "asks for a quote"),
        ({"type": "string", "pattern": r"^a\\c$"}, "asks for a quote"),
        *(({"type": "string", "pattern": pattern}, "asks for a quote") for pattern in RAW),
        ({"type": "string", "minLength": MAX_LENGTH + 1}, "no whole number up to 2000"),
        ({"type": "string", "maxLength": 2.5}, "or 'maxLength' none from there"),
        ({"type": ["string", "null"], "minLength": 3, "maxLength": 2}, "or 'maxLength' none from there"),
        *(({"properties": {"a": {"oneOf": arms}}}, "'oneOf' may both hold") for arms in TOGETHER),
        ({"type": "string", "format": "date", "minLength": 3}, "beside 'pattern' or 'format'"),
        ({"properties": []}, "#/properties is no object"),
        ({"anyOf": {}}, "#/anyOf is no array"),
        ({"items": 3}, "#/items is no schema"),
        ({"type": "string", "format": "date", "pattern": "1"}, "'pattern' cannot be kept to beside 'format'"),
        ({"dependencies": {}}, "'dependencies'"),
        *(({"properties": {name: True}, "additionalProperties": True}, "beside a name with") for name in ("\n", "\\")),
        ({"properties": {"a": {"anyOf": []}}}, "'anyOf' is empty (at #/properties/a)"),
        ({"required": ["a"]}, "'required' names 'a', which 'properties' has not (at #)"),
        ({"properties": {"a": True}, "required": ["a", "z"]}, "'required' names 'z'"),
        ({"minimum": 1}, "'minimum' cannot be kept to without 'type'"),
        ({"properties": {"a": True}, "anyOf": [{"required": ["a"]}]}, "'properties' cannot be kept to beside 'anyOf'"),
        ({"allOf": [{"type": "object"}], "additionalProperties": False}, "'additionalProperties' cannot be kept to"),
        ({"$ref": "#/$defs/a", "maximum": 1, "$defs": {"a": {"type": "integer"}}}, "'maximum' cannot be kept to"),
        ({"enum": [1, 2], "const": 1}, "'enum' cannot be kept to beside 'const'"),
        ({"type": "string", "enum": ["a", 5]}, "'type' cannot be kept to beside 'enum'"),
        ({"type": "integer", "const": True}, "'type' cannot be kept to beside 'const'"),
        ({"type": "string", "anyOf": [{"type": "integer"}]}, "'type' cannot be kept to beside 'anyOf'"),
        ({"type": "string", "$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "beside '$ref'"),
    ],
)
def test_what_is_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_schema(schema, "response_format")
    assert words in caught.value.message
    assert caught.value.param == "response_format"


def by_reference(num: int, most: int = 8) -> dict[str, Any]:
    """So many ways from each definition to the next: their product leads to the last."""
    steps = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"} for _ in range(num)]} for at in range(most)}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": {**steps, f"d{most}": {"type": "object"}}}


def test_references_lead_as_far_as_they_do() -> None:
    check_schema(by_reference(1, 1_000), "response_format")


def steps_of(schema: dict[str, Any]) -> int:
    """Lines of ours that the check of a schema takes, whatever it comes to."""
    num_lines = 0

    def count(frame: Any, event: str, _: Any) -> Any:
        nonlocal num_lines
        num_lines += event == "line"
        return count if "luthier" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with suppress(InvalidValue):
            check_schema(schema, "response_format")
    finally:
        sys.settrace(before)
    return num_lines


def led_round(num: int) -> dict[str, Any]:
    arms = [{"$ref": "#/$defs/A"} for _ in range(num)]
    return {"oneOf": [{"$ref": "#/$defs/A"}, {"type": "string"}], "$defs": {"A": {"anyOf": arms}}}


def far_marks(num: int) -> dict[str, Any]:
    far = {f"d{at}": {"$ref": f"#/$defs/d{at + 1}"} for at in range(20)}
    held = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "required": ["a"] * num}
    return {"oneOf": [{"$ref": "#/$defs/O"}] * MAX_ARMS, "$defs": {**far, "d20": {"const": 1}, "O": held}}


def many_arms(num: int) -> dict[str, Any]:
    """Each pair of which is told apart by the last of its properties."""
    common = {f"p{at}": {"type": "string"} for at in range(4)}
    arms = {
        f"a{at}": {"type": "object", "properties": {**common, "k": {"const": at}}, "required": [*common, "k"]}
        for at in range(MAX_ARMS)
    }
    each = {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in arms]}
    return {"anyOf": [each] * num, "$defs": arms}


def same_values(num: int) -> dict[str, Any]:
    """Of two long lists that share their last values alone."""
    lists = {"x": {"enum": [*range(num), "z"]}, "y": {"enum": [*range(num, 2 * num), "z"]}}
    objects = {
        f"a{at}": {
            "type": "object",
            "properties": {"p": {"$ref": f"#/$defs/{'xy'[at % 2]}"}, "q": {"const": at}},
            "required": ["p", "q"],
        }
        for at in range(MAX_ARMS)
    }
    return {"oneOf": [{"$ref": f"#/$defs/{name}"} for name in objects], "$defs": {**lists, **objects}}


def many_tags(num: int) -> dict[str, Any]:
    """The same two objects often, whose last properties alone tell them apart."""
    arms = {
        arm: {"properties": {**{f"p{at}": {"$ref": f"#/$defs/{arm}s"} for at in range(249)}, "k": {"const": arm}}}
        for arm in "xy"
    }
    lists = {"xs": {"enum": [*range(3_000), "z"]}, "ys": {"enum": [*range(3_000, 6_000), "z"]}}
    each = {"oneOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/y"}]}
    return {"anyOf": [each] * num, "$defs": {**arms, **lists}}


def tags_by_reference(num: int) -> dict[str, Any]:
    steps = by_reference(num)
    steps["$defs"]["d8"] = marked("a")
    return {"oneOf": [{"$ref": f"#/$defs/d{at}"} for at in range(8)], "$defs": steps["$defs"]}


HOSTILE = [
    *(many_tags(1), many_tags(100), tags_by_reference(60), tags_by_reference(300)),
    *(by_reference(60, 15), by_reference(1, 1_000), led_round(2), led_round(2_000), far_marks(3_000)),
    *(many_arms(20), same_values(2_000), {"anyOf": [{}] * (MAX_SCHEMAS - 1)}, {"anyOf": [{}] * 16_000}),
    {"properties": {"n" * 30_000: {"anyOf": [{}] * 3_000}}},
    {"anyOf": [{"type": "string", "pattern": "["}] * 1_500},
    *({"anyOf": [{"type": "string", "pattern": part}] * 16} for part in ("[a]" * 1_330, r"\d" * 1_300)),
]


@pytest.mark.parametrize("schema", HOSTILE, ids=range(len(HOSTILE)))
def test_no_schema_takes_more_than_some_steps(schema: dict[str, Any]) -> None:
    assert len(json.dumps(schema)) <= MAX_CHARACTERS
    assert steps_of(schema) < 400_000


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


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 5, "enum": 7},
        {"type": [["string"]], "minLength": 1},
        {"properties": {"a": {"required": "a"}, "b": {"type": "string", "minLength": "x", "maxLength": True}}},
        {"type": "object", "properties": None, "required": [["a"]]},
        {"properties": 5},
        {"allOf": 5},
        {"$ref": 5},
        {"anyOf": [5, {"$ref": "#/a/b"}], "type": "string"},
        {"type": "string", "minLength": 5, "maxLength": 3},
    ],
)
def test_what_is_no_schema_is_no_fault_of_ours(schema: dict[str, Any]) -> None:
    with suppress(InvalidValue):
        check_schema(schema, "response_format")
    json.dumps(for_grammar(schema))


TEXT = {"type": "string", "maxLength": 3}


@pytest.mark.parametrize(
    ("schema", "answers", "others"),
    [
        (TEXT, ["", "abc", "\u00fc\u00fc"], ["abcd", "\t", "\x16", "\x7f" * 4]),
        ({"type": "string", "minLength": 2}, ["ab", "a" * 50], ["a", "\x1f\x1f"]),
        ({"type": "string", "maxLength": 0}, [""], ["a"]),
        ({"type": "string", "pattern": r'^[^"\n]{2}[a"]?$'}, ["ab", "aba"], ['a"', '"a', "a\n", 'ab"']),
        ({"type": ["string", "null", "integer"], "minLength": 1, "maximum": 7}, ["a", None, 7], ["", "\n", 8, True]),
        ({"type": "array", "items": TEXT, "maxItems": 1}, [["abc"]], [["abcd"], ["\t"]]),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [TEXT, {"type": "null"}]}}}, ["abc", None], ["\t"]),
    ],
)
def test_texts_of_bounded_length_are_json(schema: dict[str, Any], answers: list[Any], others: list[Any]) -> None:
    """xgrammar itself says what its grammar lets through; of control characters it is asked raw."""
    xgrammar = pytest.importorskip("xgrammar")
    testing = pytest.importorskip("xgrammar.testing")
    check_schema(schema, "response_format")
    grammar = xgrammar.Grammar.from_json_schema(json.dumps(for_grammar(schema)))

    def lets(answer: Any) -> bool:
        text = json.dumps(answer, ensure_ascii=False)
        for raw, written in (("\t", r"\t"), ("\n", r"\n"), ("\x16", r"\u0016"), ("\x1f", r"\u001f")):
            text = text.replace(written, raw)
        return bool(testing._is_grammar_accept_string(grammar, text))

    assert [answer for answer in answers if not lets(answer)] == []
    assert [answer for answer in others if lets(answer)] == []


def test_a_length_that_no_grammar_counts_to_is_cut() -> None:
    told = [for_grammar({"type": "string", "maxLength": most}) for most in (MAX_LENGTH, MAX_LENGTH + 1, 100_000)]
    check_schema({"type": "string", "minLength": MAX_LENGTH, "maxLength": 100_000}, "response_format")
    assert told[0] == told[1] == told[2] != for_grammar({"type": "string"})


def test_a_schema_without_bounds_stays_as_it_is() -> None:
    schema = nested(3)
    assert for_grammar(schema) == schema
