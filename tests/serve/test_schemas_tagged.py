"""Unions that a tag tells apart, as pydantic's own models write them, and references through lists."""

import json
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, RootModel, TypeAdapter

from luthier.serve.dialects.cortex_rules import ResponseFormat
from luthier.serve.doors.bodies import JsonSchema
from luthier.serve.doors.messages import Tool, forced_schema
from luthier.serve.doors.schema_told import for_grammar
from luthier.serve.doors.schemas import check_schema
from tests.serve.walks import check_walks


class Colour(Enum):
    BLACK = "black"
    WHITE = "white"


class Black(BaseModel):
    pet: Literal["cat"] = "cat"
    colour: Literal[Colour.BLACK] = Colour.BLACK
    lives: int = 9


class White(BaseModel):
    pet: Literal["cat"] = "cat"
    colour: Literal[Colour.WHITE] = Colour.WHITE


class Dog(BaseModel):
    pet: Literal["dog", "wolf"] = "dog"
    barks: int


class Fish(BaseModel):
    pet: Literal["fish"]


Cat = Annotated[Black | White, Field(discriminator="colour")]
Pet = Annotated[Cat | Dog | Fish, Field(discriminator="pet")]


class Herd(RootModel[Pet]):
    pass


class Home(BaseModel):
    first: Pet
    others: list[Pet] = []
    last: Pet | None = None


class Node(BaseModel):
    kind: Literal["node"] = "node"
    inner: list["Tree"]


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"


Tree = Annotated[Node | Leaf, Field(discriminator="kind")]
DOG, FISH = {"pet": "dog", "barks": 2}, {"pet": "fish"}
BLACK: Any = {"pet": "cat", "colour": "black"}


def lets(schema: dict[str, Any], answer: Any) -> bool:
    xgrammar = pytest.importorskip("xgrammar")
    testing = pytest.importorskip("xgrammar.testing")
    grammar = xgrammar.Grammar.from_json_schema(json.dumps(for_grammar(schema)))
    return bool(testing._is_grammar_accept_string(grammar, json.dumps(answer)))


@pytest.mark.parametrize(
    ("kind", "answers", "others"),
    [
        (Herd, [DOG, FISH, BLACK, {**BLACK, "lives": 3}], [{"barks": 2}, {"pet": "cat"}, {"pet": "fish", "barks": 2}]),
        (Home, [{"first": DOG, "last": None}, {"first": BLACK, "others": [FISH]}], [{"first": {"colour": "black"}}]),
        (Node, [{"kind": "node", "inner": [{"kind": "leaf"}, {"kind": "node", "inner": []}]}], [{"inner": [{}]}]),
        (Cat, [BLACK], [{"pet": "cat"}, DOG]),
    ],
)
def test_models_are_taken_and_their_answers_read(kind: Any, answers: list[Any], others: list[Any]) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    schema = adapter.json_schema()
    held_to = check_schema(schema, "response_format")
    assert [answer for answer in answers if not lets(held_to, answer)] == []
    assert [answer for answer in others if lets(held_to, answer)] == []
    check_walks(schema, 0)


def test_each_door_holds_answers_to_the_tag() -> None:
    schema = Herd.model_json_schema()
    held_to = check_schema(schema, "response_format")
    named = {"type": "json_schema", "json_schema": {"name": "herd", "schema": schema}}
    assert held_to != schema
    assert JsonSchema.model_validate(named).schema_of_answer() == held_to
    assert ResponseFormat.model_validate({"type": "json", "schema": schema}).json_schema == held_to


def test_a_forced_call_carries_the_tag() -> None:
    function = {"name": "f", "parameters": Home.model_json_schema()}
    schema = forced_schema([Tool.model_validate({"type": "function", "function": function})], "required", True)
    assert lets(schema, [{"name": "f", "parameters": {"first": DOG}}])
    assert not lets(schema, [{"name": "f", "parameters": {"first": {"barks": 2}}}])


def requiring(name: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [name]}


def test_without_a_discriminator_the_first_property_that_tells_apart_is_required() -> None:
    kinds = [requiring("n", {"n": {"enum": [1, at]}, "kind": {"const": at}}) for at in "ab"]
    held_to = check_schema({"oneOf": [*kinds, {"type": "null"}], "discriminator": {"propertyName": "n"}}, "x")
    assert [each.get("required") for each in held_to["oneOf"]] == [["n", "kind"], ["n", "kind"], None]


def test_what_excludes_each_other_stays_as_it_is() -> None:
    schema = {"oneOf": [{"type": "object", "properties": {"kind": {"const": 1}}}, {"type": "null"}]}
    assert check_schema(schema, "x") is schema


LED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"$ref": "#/$defs/a~1%25/anyOf/1"},
        "b": {"$ref": "#/$defs/list/prefixItems/0"},
        "c": {"$ref": "#/properties/text/items"},
        "text": {"type": ["string", "array"], "maxLength": 3, "items": {"enum": [5, 6]}},
    },
    "$defs": {
        "a/%": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/a~1%25/anyOf/1"}}]},
        "list": {"type": "array", "prefixItems": [{"oneOf": [{"const": 3}, {"type": "string", "maxLength": 1}]}]},
    },
}
"""References through a list, by escapes, round in a ring, and to where xgrammar is told something else."""


@pytest.mark.parametrize(
    ("answer", "is_let"),
    [
        *(({"a": [[], [[]]]}, True), ({"a": None}, False), ({"a": [None]}, False)),
        *(({"b": 3}, True), ({"b": "x"}, True), ({"b": "xy"}, False), ({"b": 4}, False)),
        *(({"c": 5}, True), ({"c": 7}, False), ({"text": [6]}, True), ({"text": "abc"}, True)),
    ],
)
def test_references_lead_through_lists(answer: Any, is_let: bool) -> None:
    held_to = check_schema(LED, "response_format")
    assert lets(held_to, answer) == is_let
    assert jsonschema.Draft202012Validator(LED).is_valid(answer) == is_let


def test_of_references_through_lists_walks_are_kept_to() -> None:
    check_walks(LED, 0)
