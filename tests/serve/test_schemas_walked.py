"""Whatever a grammar lets through is JSON that follows its schema: random walks, of random schemas."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from luthier.errors import InvalidValue
from luthier.serve.doors.schema_texts import FORMATS
from luthier.serve.doors.schemas import RAW_NAME
from tests.serve.walks import WALKS, check_walks

ATOMS = st.sampled_from(
    [
        *("a", ".", r"\d", r"\s", r"\W", r"\S", "[a-c]", '["]', r"[\\]", r"[\n\t]", '[a"]', r"[^a]", r'[^"]', "[ -~]"),
        *(r"\u0041", r"\u0022", r"\x0a", r"\/", r"\.", r"\cJ", r"\t", '"', r"[\x00-\x1f]", r"[!-#]", '["-]', r"[\s\-]"),
        *("\u00fc", "[\U0001f600]", r"[^\s]", r"[^\S]", r"[^\W_]", r"[^\W\d_]", r"[^\D1]", "(a|b)", "(?:a)"),
    ]
)
PATTERNS = st.lists(st.tuples(ATOMS, st.sampled_from(["", "", "*", "+", "?", "{1,3}"])), min_size=1, max_size=4).map(
    lambda parts: f"^{''.join(atom + times for atom, times in parts)}$"
)
SCALARS = st.none() | st.booleans() | st.integers(-99, 99) | st.integers(-99, 99).map(lambda number: number / 8)
VALUES = SCALARS | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
NAMES = st.sampled_from(["a", "b", 'a"b', "\\", "\n", "\u00fc", ""])
TEXTS = st.one_of(
    st.just({"type": "string"}),
    PATTERNS.map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from([*sorted(FORMATS), "date", "uri", "uuid"]).map(lambda name: {"type": "string", "format": name}),
    st.tuples(st.integers(0, 3), st.integers(3, 6)).map(lambda ends: {"type": "string", **bounds("Length", ends)}),
    st.integers(0, 3).map(lambda most: {"type": ["string", "null"], "maxLength": most}),
)
NUMBERS = st.tuples(st.sampled_from(["integer", "number"]), st.integers(-20, 0), st.integers(1, 20)).map(
    lambda given: {"type": given[0], "minimum": given[1], "maximum": given[2]}
)
LEAVES = st.one_of(
    TEXTS,
    NUMBERS,
    st.sampled_from(["integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    VALUES.map(lambda value: {"const": value}),
    st.lists(VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
)


def bounds(what: str, ends: tuple[int, int]) -> dict[str, int]:
    return {f"min{what}": ends[0], f"max{what}": ends[1]}


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    ends = st.tuples(st.integers(0, 2), st.integers(2, 3))
    return st.tuples(inner, ends).map(lambda given: {"type": "array", "items": given[0], **bounds("Items", given[1])})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def schema(properties: dict[str, Any], optional: set[str], more: bool) -> dict[str, Any]:
        required = [name for name in properties if name not in optional]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": more}

    return st.builds(schema, st.dictionaries(NAMES, inner, max_size=3), st.sets(NAMES), st.booleans())


def arms(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.tuples(st.sampled_from(["anyOf", "oneOf"]), several).map(lambda given: {given[0]: given[1]})


def tagged(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects told apart by a property that none need require, as pydantic writes them."""

    def schema(tag: str, schemas: list[dict[str, Any]], is_named: bool, with_null: bool) -> dict[str, Any]:
        arms = [
            {**each, "properties": {**each["properties"], tag: {"enum": [number, f"t{number}"], "default": number}}}
            for number, each in enumerate(schemas)
        ]
        named = {"discriminator": {"propertyName": tag}} if is_named else {}
        return {"oneOf": [*arms, *([{"type": "null"}] if with_null else [])], **named}

    several = st.lists(objects(inner), min_size=2, max_size=3)
    return st.builds(schema, NAMES, several, st.booleans(), st.booleans())


def referring(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """To what stands in a list. For a whole schema only: references lead from its root."""
    several = st.tuples(st.sampled_from(["anyOf", "prefixItems"]), st.lists(inner, min_size=1, max_size=2))

    def schema(given: tuple[str, list[Any]], is_list: bool) -> dict[str, Any]:
        key, schemas = given
        led = {"$ref": f"#/$defs/a~1%25/{key}/{len(schemas) - 1}"}
        whole = {"type": "array", "items": led, "maxItems": 2} if is_list else led
        return {**whole, "$defs": {"a/%": {key: schemas}}}

    return st.builds(schema, several, st.booleans())


SCHEMAS = st.recursive(LEAVES, lambda inner: arrays(inner) | objects(inner) | arms(inner) | tagged(inner), max_leaves=5)


@given(SCHEMAS | referring(SCHEMAS), st.integers(0, 1 << 30))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_what_is_taken_is_kept_to(schema: dict[str, Any], seed: int) -> None:
    with suppress(InvalidValue):
        check_walks(schema, seed)


PLAIN = st.sampled_from([{"type": "integer"}, {"type": "string", "maxLength": 2}, {"const": "x"}, {"enum": [1, None]}])


@given(tagged(tagged(PLAIN) | PLAIN) | referring(tagged(PLAIN)), st.integers(0, 1 << 30))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_what_tags_tell_apart_is_taken(schema: dict[str, Any], seed: int) -> None:
    assume(not any(map(RAW_NAME.search, names_of(schema))))
    check_walks(schema, seed)


def names_of(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from names_of(inner)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_are_json(name: str) -> None:
    for seed in range(50):
        check_walks({"type": "string", "format": name}, WALKS * seed)
