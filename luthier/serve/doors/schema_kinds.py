"""What kinds of values a schema lets through, as far as it says so itself, and where references within it lead."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]
Kinds = frozenset[str | None]
"""None stands for what is not known."""

UNKNOWN: Kinds = frozenset([None])
NOTHING: Schema = {}
"""Where nothing is known."""
UNTYPED = "untyped"
"""What has properties and no type: of an object in the grammar, of anything in JSON Schema."""
KINDS: dict[type, str] = {
    **{str: "string", bool: "boolean", int: "integer", float: "fraction"},
    **{type(None): "null", list: "array", dict: "object"},
}
NUMBER = ("integer", "fraction")
BY_TYPE: dict[str, Kinds] = {
    **{kind: frozenset([kind]) for kind in KINDS.values() if kind not in NUMBER},
    **{"integer": frozenset(["integer"]), "number": frozenset(NUMBER)},
}
ARMS = ("anyOf", "oneOf", "allOf")
RULERS = ("$ref", "const", "enum", *ARMS)
"""Beside one of these all else is passed over."""
MAPS = {"properties", "$defs", "definitions"}
LISTS = {*ARMS, "prefixItems"}
ONES = {"items", "additionalProperties"}
"""Keywords whose values are schemas by name, in a list, or one."""
NUMBER_IN_LIST = re.compile(r"0|[1-9][0-9]{0,3}")


class KindsWithin:
    """Of the schemas in one: each is looked at once, after those that it leads to. What leads to itself is unknown."""

    def __init__(self, root: Schema, schemas: Iterable[Schema]) -> None:
        self._root = root
        self._leads = {id(each): self._leading(each) for each in schemas}
        self._kinds: dict[int, Kinds] = {}
        self._ends: dict[int, Schema] = {}
        for schema in self._in_order({id(each): each for each in schemas}):
            self._look_at(schema)

    def of(self, schema: Any) -> Kinds:
        return self._kinds.get(id(schema), UNKNOWN)

    def end(self, schema: Any) -> Schema:
        """Where references, and lists of one arm, lead to in the end."""
        return self._ends.get(id(schema), NOTHING)

    def are(self, types: list[str], schema: Schema) -> bool:
        """What it lets through is of one of the types."""
        allowed: Kinds = frozenset().union(*(BY_TYPE.get(each, frozenset()) for each in types))
        return self.of(schema) - {UNTYPED} <= allowed

    def _leading(self, schema: Schema) -> list[Any]:
        """Schemas that say what this one lets through."""
        ruler = ruler_of(schema)
        if ruler == "$ref":
            return [schema_at(str(schema["$ref"]), self._root)]
        return schema[ruler] if ruler in ARMS and isinstance(schema[ruler], list) else []

    def _in_order(self, schemas: dict[int, Schema]) -> Iterator[Schema]:
        waiting = {key: sum(id(each) in schemas for each in leads) for key, leads in self._leads.items()}
        asking: dict[int, list[int]] = {}
        for key, leads in self._leads.items():
            for each in leads:
                asking.setdefault(id(each), []).append(key)
        ready = [key for key, number in waiting.items() if not number]
        for key in ready:
            yield schemas[key]
            for other in asking.get(key, ()):
                waiting[other] -= 1
                if not waiting[other]:
                    ready.append(other)

    def _look_at(self, schema: Schema) -> None:
        leads = self._leads[id(schema)]
        self._kinds[id(schema)] = frozenset().union(*map(self.of, leads)) if leads else _own_kinds(schema)
        self._ends[id(schema)] = self.end(leads[0]) if len(leads) == 1 else schema


def ruler_of(schema: Schema) -> str | None:
    return next((key for key in RULERS if key in schema), None)


def types_of(schema: Schema) -> list[str]:
    types = schema.get("type")
    return [kind for kind in (types if isinstance(types, list) else [types]) if isinstance(kind, str)]


def given_values(schema: Schema) -> list[Any] | None:
    """All that it lets through, where it says so."""
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _own_kinds(schema: Schema) -> Kinds:
    """Of one that leads to no other."""
    if (values := given_values(schema)) is not None:
        return frozenset(map(_kind_of, values))
    if ruler_of(schema) is not None:
        return UNKNOWN
    if not (types := types_of(schema)):
        return frozenset(["object", UNTYPED]) if "properties" in schema else UNKNOWN
    return frozenset().union(*(BY_TYPE.get(each, UNKNOWN) for each in types))


def _kind_of(value: Any) -> str:
    return "integer" if isinstance(value, float) and value.is_integer() else KINDS[type(value)]


def schema_at(ref: str, root: Schema) -> Any:
    """The schema that a reference within the root leads to, by names and numbers alone; None where none stands."""
    first, *rest = unquote(ref).split("/")
    at: Any = root if first == "#" else None
    parts = iter(rest)
    for part in parts:
        at = at.get(part) if isinstance(at, dict) and part in MAPS | LISTS | ONES else None
        if part in MAPS:
            name = next(parts, "").replace("~1", "/").replace("~0", "~")
            at = at.get(name) if isinstance(at, dict) else None
        elif part in LISTS:
            number = next(parts, "")
            is_there = isinstance(at, list) and NUMBER_IN_LIST.fullmatch(number) and int(number) < len(at)
            at = at[int(number)] if is_there else None
    return at


def with_inner(schema: Schema, change: Callable[[Any], Any]) -> Schema:
    """The schema, each that its keywords hold changed."""
    changed = dict(schema)
    for key, value in schema.items():
        if key in ONES:
            changed[key] = change(value)
        elif key in LISTS and isinstance(value, list):
            changed[key] = [change(each) for each in value]
        elif key in MAPS and isinstance(value, dict):
            changed[key] = {name: change(each) for name, each in value.items()}
    return changed
