"""JSON schemas that an answer is held to: what the engine's grammars cannot express is refused before it is asked.

xgrammar passes over most of it in silence. What it is told in the end stands in `schema_told.py`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from luthier.errors import InvalidSchema
from luthier.serve.doors.refusals import invalid_schema
from luthier.serve.doors.schema_arms import Arms
from luthier.serve.doors.schema_costs import MAX_REPEAT, cost_fault, repeats_too_often
from luthier.serve.doors.schema_kinds import (
    LISTS,
    MAPS,
    ONES,
    RULERS,
    KindsWithin,
    Schema,
    ruler_of,
    schema_at,
    types_of,
    with_inner,
)
from luthier.serve.doors.schema_texts import text_fault

MAX_CHARACTERS, MAX_DEPTH, MAX_SCHEMAS = 65_536, 16, 4_000
"""They keep what a schema costs here to milliseconds."""

UNSUPPORTED = {
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    *("unevaluatedItems", "multipleOf", "uniqueItems", "contains", "minContains", "maxContains"),
    *("patternProperties", "propertyNames", "$dynamicRef", "$recursiveRef", "dependencies"),
}
BOUNDS = {
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "format"),
    *("minItems", "maxItems", "minProperties", "maxProperties"),
}
"""Passed over where no `type` is given."""
RULES = {*RULERS, *BOUNDS, "type", "properties", "required", "additionalProperties", "items", "prefixItems"}


RAW_NAME = re.compile(r"[\\\x00-\x1f]")
"""Beside such a name xgrammar writes those of other properties raw."""


class Place(NamedTuple):
    """Where a schema stands in another. Written out only when something is wrong there: names may be long."""

    schema: Schema
    name: str
    up: "Place | None"
    depth: int

    def __str__(self) -> str:
        return self.name if self.up is None else f"{self.up}/{self.name}"


def check_schema(schema: Schema, param: str) -> Schema:
    """What answers are held to, so that they follow this one: InvalidSchema, with the reason, where no grammar is."""
    if len(json.dumps(schema)) > MAX_CHARACTERS:
        raise _refused(param, f"it has more than {MAX_CHARACTERS} characters")
    places = _places(schema, param)
    kinds = KindsWithin(schema, [place.schema for place in places])
    arms = Arms(kinds)
    for place in places:
        if reason := _fault(place.schema, schema, arms) or _passed_over(place.schema, kinds):
            raise _refused(param, f"{reason} (at {place})")
    if reason := cost_fault(place.schema for place in places):
        raise _refused(param, f"it has {reason}")
    return arms.with_tags(schema)


def check_together(schemas: list[Schema], param: str) -> None:
    """Each is checked already. One grammar is made of them all: it may have no more than that of one."""
    if sum(len(json.dumps(each)) for each in schemas) > MAX_CHARACTERS:
        raise _refused(param, f"all together have more than {MAX_CHARACTERS} characters")
    places = [place.schema for each in schemas for place in _places(each, param)]
    if len(places) > MAX_SCHEMAS:
        raise _refused(param, f"all together have more than {MAX_SCHEMAS} schemas in them")
    if reason := cost_fault(places):
        raise _refused(param, f"all together have {reason}")


def calls_schema(tools: Mapping[str, Schema | None], most: int | None = None) -> Schema:
    """Of an array of calls, [{"name": ..., "parameters": {...}}, ...], of tools by name with their parameters."""
    bare = {"type": "object", "properties": {}}
    moved = {f"tool{at}": _moved(each or bare, f"#/$defs/tool{at}") for at, each in enumerate(tools.values())}
    calls = [_call(name, number) for number, name in enumerate(tools)]
    array: Schema = {"type": "array", "minItems": 1, "items": {"anyOf": calls}, "$defs": moved}
    return array if most is None else {**array, "maxItems": most}


def _call(name: str, number: int) -> Schema:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "parameters": {"$ref": f"#/$defs/tool{number}"}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references hold when it stands at `place`."""
    if not isinstance(schema, dict):
        return schema
    moved = with_inner(schema, lambda inner: _moved(inner, place))
    if isinstance(to := schema.get("$ref"), str) and to.startswith("#"):
        moved["$ref"] = place + to[1:]
    return moved


def _places(root: Schema, param: str) -> list[Place]:
    """The schema and all in it."""
    places = [Place(root, "#", None, 0)]
    for place in places:
        if place.depth > MAX_DEPTH:
            raise _refused(param, f"it is nested more than {MAX_DEPTH} deep")
        for name, inner in _inner(place, param):
            if not isinstance(inner, bool | dict):
                raise _refused(param, f"{place}/{name} is no schema")
            places.append(Place({} if isinstance(inner, bool) else inner, name, place, place.depth + 1))
        if len(places) > MAX_SCHEMAS:
            raise _refused(param, f"it has more than {MAX_SCHEMAS} schemas in it")
    return places


def _inner(place: Place, param: str) -> Iterator[tuple[str, Any]]:
    """The schemas that its keywords hold."""
    for key, value in place.schema.items():
        if key in ONES:
            yield key, value
        elif key in LISTS and isinstance(value, list):
            yield from ((f"{key}/{number}", each) for number, each in enumerate(value))
        elif key in MAPS and isinstance(value, dict):
            yield from ((f"{key}/{name}", each) for name, each in value.items())
        elif key in MAPS | LISTS:
            raise _refused(param, f"{place}/{key} is no {'object' if key in MAPS else 'array'}")


def _length(schema: Schema, key: str) -> int:
    return len(held) if isinstance(held := schema.get(key), dict | list) else 0


def _fault(schema: Schema, root: Schema, arms: Arms) -> str | None:
    for key in schema:
        if key in UNSUPPORTED:
            return f"'{key}' cannot be kept to"
    if _length(schema, "allOf") > 1:
        return "'allOf' of more than one schema cannot be kept to"
    if schema.get("additionalProperties", False) is not False and any(
        map(RAW_NAME.search, schema.get("properties", ()))
    ):
        return "'additionalProperties' cannot be kept to beside a name with a backslash or a control character"
    ref = str(schema.get("$ref", "#"))
    if not ref.startswith("#"):
        return f"'$ref' to {ref!r} leads out of the schema"
    if schema_at(ref, root) is None:
        return f"'$ref' to {ref!r} leads to no schema"
    if isinstance(one_of := schema.get("oneOf"), list) and not arms.exclude(one_of, _tag(schema)):
        return "two schemas of 'oneOf' may both hold, which cannot be kept to: 'anyOf' takes them"
    if reason := text_fault(schema):
        return reason
    if schema.get("pattern") is not None and repeats_too_often(str(schema["pattern"])):
        return f"'pattern' repeats more than {MAX_REPEAT} times at once: 'a{{200}}' can be '(a{{100}}){{2}}'"
    return None


def _tag(schema: Schema) -> str | None:
    """The property that OpenAPI's keyword names."""
    given = schema.get("discriminator")
    name = given.get("propertyName") if isinstance(given, dict) else None
    return name if isinstance(name, str) else None


def _passed_over(schema: Schema, kinds: KindsWithin) -> str | None:
    """What an answer would not be held to, for xgrammar does not look at it there."""
    ruler = ruler_of(schema)
    if ruler is None:
        if "type" not in schema and (lost := sorted(BOUNDS & schema.keys())):
            return f"'{lost[0]}' cannot be kept to without 'type'"
        return _absent(schema.get("required"), schema.get("properties") or {})
    if ruler in LISTS and schema[ruler] == []:
        return f"'{ruler}' is empty"
    if lost := sorted((RULES & schema.keys()) - {ruler, "type"}):
        return f"'{lost[0]}' cannot be kept to beside '{ruler}'"
    if "type" in schema and not kinds.are(types_of(schema), schema):
        return f"'type' cannot be kept to beside '{ruler}'"
    return None


def _absent(required: Any, properties: Any) -> str | None:
    if not isinstance(required, list) or not isinstance(properties, dict):
        return None  # what is wrong with that is told elsewhere
    absent = [name for name in map(str, required) if name not in properties]
    return f"'required' names {absent[0]!r}, which 'properties' has not" if absent else None


def _refused(param: str, reason: str) -> InvalidSchema:
    return invalid_schema(param, f"a schema is refused: {reason}")
