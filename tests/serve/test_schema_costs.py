"""What a schema may take: here, and of the engine that compiles its grammar."""

import itertools
import json
import time
from typing import Any

import pytest

from luthier.errors import InvalidValue
from luthier.serve.doors.messages import Tool, forced_schema
from luthier.serve.doors.schema_costs import MAX_PLACES, pattern_size
from luthier.serve.doors.schema_told import for_grammar
from luthier.serve.doors.schemas import calls_schema, check_schema
from tests.serve.walks import COMPILER, check_walks, xgrammar


def taken(schema: dict[str, Any]) -> Any:
    held_to = check_schema(schema, "response_format")
    return COMPILER.compile_json_schema(json.dumps(for_grammar(held_to)))


def lengths(grammar: Any, most: int) -> list[int]:
    """Of texts that it lets through, up to one more than `most`."""
    matcher, found = xgrammar.GrammarMatcher(grammar), []
    assert matcher.accept_string('"')
    for num in range(most + 2):
        closed = matcher.fork()
        found += [num] if closed.accept_string('"') else []
        if not matcher.accept_string("\u00fc" if num % 2 else "x"):
            break
    return found


@pytest.mark.parametrize("least", [0, 1, 100, 127])
@pytest.mark.parametrize("most", [127, 128, 129, 200, 201, 255, 2_000])
def test_texts_have_each_length_that_they_may(least: int, most: int) -> None:
    schema = {"type": "string", "minLength": least, "maxLength": most}
    assert lengths(taken(schema), most) == list(range(least, most + 1))


@pytest.mark.parametrize("least", [128, 129, 200, 2_000])
def test_texts_are_as_long_as_they_are_to_be(least: int) -> None:
    assert lengths(taken({"type": "string", "minLength": least}), least + 50) == list(range(least, least + 52))
    exactly = {"type": "string", "minLength": least, "maxLength": least}
    assert lengths(taken(exactly), least) == [least]


def test_of_long_texts_walks_are_kept_to() -> None:
    check_walks({"type": "array", "items": {"type": "string", "maxLength": 255}, "maxItems": 3}, 0)


def texts(*most: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"a{at}": {"type": "string", "maxLength": n} for at, n in enumerate(most)}}


def counted(num: int, **bounds: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"a{at}": {"type": "string"} for at in range(num)}, **bounds}


def patterns(*given: str) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "pattern": each} for each in given]}


TAKEN = [
    *(texts(50, 100, 255, 500, 2_000), texts(*[2_000] * 400), texts(2_000, 1_000)),
    *(counted(44, minProperties=1), counted(100, maxProperties=20), counted(500, maxProperties=4), counted(500)),
    *(patterns("^([a-z]{0,10}){0,37}$"), patterns("^([a-z]{1,100}-){1,20}$"), patterns("^[a-z]{1,128}$")),
    *(patterns("^" + r"\d" * 1_900 + "$"), patterns(*["[a]" * 187] * 16), patterns(r"^[ab]*a[ab]{20}$")),
    {"type": "array", "prefixItems": [{"type": ["string", "null"], "format": each} for each in ["date", "uri"] * 300]},
    {"type": "object", "properties": {f"a{at}": {"type": "string", "format": "ipv6"} for at in range(60)}},
    patterns(*[f"^([a-z]{{0,{at}}}){{0,10}}$" for at in range(1, 8)]),
]


@pytest.mark.parametrize("schema", TAKEN, ids=range(len(TAKEN)))
def test_what_is_taken_compiles_soon(schema: dict[str, Any]) -> None:
    began = time.process_time()
    taken(schema)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (texts(2_000, 1_001), "more than 3000 characters (equal lengths once)"),
        (counted(200, minProperties=50, maxProperties=100), "come to 20000, more than 2000"),
        (counted(200, minProperties=1), "come to 40000"),
        (patterns("^([a-z]{1,100}){1,1000}$"), "'pattern' repeats more than 128 times at once"),
        (patterns("^(([a-z]{1,100}b){1,100}c){1,100}$"), "more than 3000 characters"),
        (patterns("^([a-z]{0,10}){0,38}$"), "more than 3000 characters"),
        ({"prefixItems": [{"type": "string", "format": "ipv6"}] * 61}, "more than 3000 characters"),
        (patterns("^a{129}$"), "'a{200}' can be '(a{100}){2}'"),
        (patterns("^a{" + "9" * 3_900 + "}$"), "repeats more than 128 times"),
    ],
)
def test_what_takes_long_is_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_schema(schema, "response_format")
    assert words in caught.value.message
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        *((r"^abc$", 3), (r"a{3}", 3), (r"a{3,}", 4), (r"[a{9}]{2}", 2), (r"\{9{2}", 3), (r"\u{200}", 1)),
        *(("(ab|c){3}", 9), ("(?:a?b?){3}", 48), ("(a|){2}", 16), ("((a*)){2}", 16), ("(a+){2}", 2)),
        ("a{2}){3}((b", 7),
    ],
)
def test_of_a_pattern_repeats_are_written_out(pattern: str, size: int) -> None:
    assert pattern_size(pattern) == min(size, MAX_PLACES)


def tools(*parameters: dict[str, Any]) -> list[Tool]:
    functions = [{"name": f"f{at}", "parameters": each} for at, each in enumerate(parameters)]
    return [Tool.model_validate({"type": "function", "function": each}) for each in functions]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ([counted(300)] * 2, "all together have 600 properties, more than 500"),
        ([texts(most) for most in (2_000, 1_001)], "all together have patterns and lengths"),
        ([{**counted(1), "description": "x" * 40_000}] * 2, "all together have more than 65536 characters"),
        ([{**counted(0), "$defs": {"a": {"anyOf": [{}] * 2_500}}}] * 2, "all together have more than 4000 schemas"),
    ],
)
def test_forced_tools_are_bounded_together(parameters: list[dict[str, Any]], words: str) -> None:
    for at in range(len(parameters)):
        forced_schema(tools(parameters[at]), "required", True)
    with pytest.raises(InvalidValue) as caught:
        forced_schema(tools(*parameters), "required", True)
    assert words in caught.value.message
    assert caught.value.param == "tools"


def spelled(num: int) -> list[str]:
    ways = ("".join(way) for way in itertools.product(("a", "%61"), repeat=11))
    return sorted(ways, key=len)[:num]


def test_what_many_spellings_lead_to_is_told_once() -> None:
    refs = [{"$ref": f"#/properties/{name}"} for name in spelled(900)]
    schema = {"type": "object", "properties": {"a" * 11: {"anyOf": [{}] * 2_900}, "b": {"anyOf": refs}}}
    told = for_grammar(check_schema(schema, "response_format"))
    assert len(json.dumps(told)) < 2 * len(json.dumps(schema))


def test_what_references_lead_into_is_told_once() -> None:
    inner: dict[str, Any] = {"anyOf": [{"const": at} for at in range(500)]}
    for _ in range(12):
        inner = {"type": "object", "properties": {"a": inner}}
    places = ["#" + "/properties/a" * depth for depth in range(1, 13)]
    schema = {**inner, "$defs": {f"d{at}": {"$ref": place} for at, place in enumerate(places)}}
    told = for_grammar(check_schema(schema, "response_format"))
    assert json.dumps(told).count('"const": 499') == 1
    COMPILER.compile_json_schema(json.dumps(told))


def test_names_of_a_schema_are_its_own() -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/luthier_text_0_5"},
            "b": {"type": "string", "maxLength": 5},
            "c": {"$ref": "#/properties/b"},
            "d": {"$ref": "#/$defs/luthier_end_0"},
        },
        "$defs": {"luthier_text_0_5": {"type": "integer"}, "luthier_end_0": {"const": 1}},
    }
    given = schema["$defs"]
    told = for_grammar(check_schema(schema, "response_format"))["$defs"]
    assert {name: told[name] for name in given} == given
    assert len(told) == len(given) + 2
    check_walks({**schema, "required": ["a", "b", "c", "d"]}, 0)


def test_a_reference_in_data_is_no_reference() -> None:
    data = {"properties": {"a": {"const": {"$ref": "#/x"}}, "$ref": {"enum": [{"$ref": "#/y"}]}}}
    moved = calls_schema({"f": data})["$defs"]["tool0"]
    assert moved == data
