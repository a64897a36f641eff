"""JSON schemas that an answer is held to: what the engine's grammars cannot express is refused before it is asked.

xgrammar passes over most of it in silence.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from luthier.errors import InvalidSchema
from luthier.serve.refusals import invalid_schema

MAX_CHARACTERS, MAX_DEPTH, MAX_PROPERTIES = 65_536, 16, 500
"""Above 500 optional properties of one object the grammar takes seconds to compile."""

UNSUPPORTED = {
    *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "unevaluatedProperties"),
    *("unevaluatedItems", "multipleOf", "uniqueItems", "contains", "minContains", "maxContains"),
    *("patternProperties", "propertyNames", "$dynamicRef", "$recursiveRef"),
}
MAPS = {"properties", "$defs", "definitions"}
LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
ONES = {"items", "additionalProperties"}
"""Keywords whose values are schemas by name, in a list, or one."""

Schema = dict[str, Any]


def check_schema(schema: Schema, param: str) -> None:
    """InvalidSchema, with the reason, for a schema that no grammar is made of."""
    if len(json.dumps(schema)) > MAX_CHARACTERS:
        raise _refused(param, f"it has more than {MAX_CHARACTERS} characters")
    num_properties = 0
    for place, found in _within(schema, "#", param):
        num_properties += len(found.get("properties") or ())
        if reason := _fault(found):
            raise _refused(param, f"{reason} (at {place})")
    if num_properties > MAX_PROPERTIES:
        raise _refused(param, f"it has {num_properties} properties, more than {MAX_PROPERTIES}")


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
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    if isinstance(to := schema.get("$ref"), str) and to.startswith("#"):
        moved["$ref"] = place + to[1:]
    return moved


def _within(schema: Any, place: str, param: str, depth: int = 0) -> Iterator[tuple[str, Schema]]:
    """The schema and all in it, with their places."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        raise _refused(param, f"{place} is no schema")
    if depth > MAX_DEPTH:
        raise _refused(param, f"it is nested more than {MAX_DEPTH} deep")
    yield place, schema
    for key, value in schema.items():
        for name, inner in _inner(key, value, place, param):
            yield from _within(inner, f"{place}/{name}", param, depth + 1)


def _inner(key: str, value: Any, place: str, param: str) -> list[tuple[str, Any]]:
    """The schemas that a keyword holds."""
    if key in ONES:
        return [(key, value)]
    if key in LISTS and isinstance(value, list):
        return [(f"{key}/{number}", each) for number, each in enumerate(value)]
    if key in MAPS and isinstance(value, dict):
        return [(f"{key}/{name}", each) for name, each in value.items()]
    if key in MAPS | LISTS:
        raise _refused(param, f"{place}/{key} is no {'object' if key in MAPS else 'array'}")
    return []


def _fault(schema: Schema) -> str | None:
    for key in schema:
        if key in UNSUPPORTED:
            return f"'{key}' cannot be kept to"
    if len(schema.get("allOf") or ()) > 1:
        return "'allOf' of more than one schema cannot be kept to"
    if not str(schema.get("$ref", "#")).startswith("#"):
        return f"'$ref' to {schema['$ref']!r} leads out of the schema"
    pattern = schema.get("pattern")
    if pattern is not None and re.search(r"\(\?(?!:)|\\[bB]", str(pattern)):
        return "'pattern' looks around, which cannot be kept to"
    if (pattern or "format" in schema) and {"minLength", "maxLength"} & schema.keys():
        return "'minLength' and 'maxLength' cannot be kept to beside 'pattern' or 'format'"
    return None


def _refused(param: str, reason: str) -> InvalidSchema:
    return invalid_schema(param, f"a schema is refused: {reason}")
