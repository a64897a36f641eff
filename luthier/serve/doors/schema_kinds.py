"""What kinds of values a schema lets through, as far as it says so itself; references are followed."""

from collections.abc import Callable, Iterable
from typing import Any

Schema = dict[str, Any]
Kinds = frozenset[str | None]
"""None stands for what is not known."""

MAX_STEPS = 16
"""From one schema to the next, within it or by references."""
UNKNOWN: Kinds = frozenset([None])
KINDS: dict[type, str] = {
    **{str: "string", bool: "boolean", int: "integer", float: "number"},
    **{type(None): "null", list: "array", dict: "object"},
}
WHOLE = frozenset(KINDS.values())


class KindsWithin:
    """Of the schemas in one. What references lead to is looked at once for all."""

    def __init__(self, root: Schema, schemas: Iterable[Schema]) -> None:
        self._places = {ref: place_of(ref, root) for ref in {str(each["$ref"]) for each in schemas if "$ref" in each}}
        self._known = {id(place): UNKNOWN for place in self._places.values()}
        self._follow()

    def are(self, types: list[str], arm: Any) -> bool:
        """What an arm lets through is of one of the types."""
        return _kinds(arm, self._led_to) <= {*types, *(("integer",) if "number" in types else ())}

    def _follow(self) -> None:
        """Each round knows references that lead through one more. Those that lead back, or through too many, never."""
        places = {id(place): place for place in self._places.values()}
        for _ in range(MAX_STEPS):
            known = {key: _kinds(place, self._led_to) for key, place in places.items()}
            if known == self._known:
                return
            self._known = known

    def _led_to(self, ref: Any) -> Kinds:
        return self._known[id(self._places[str(ref)])] if str(ref) in self._places else UNKNOWN


def types_of(schema: Schema) -> list[str]:
    types = schema.get("type")
    return [kind for kind in (types if isinstance(types, list) else [types]) if isinstance(kind, str)]


def _kinds(arm: Any, led_to: Callable[[Any], Kinds], depth: int = 0) -> Kinds:
    if not isinstance(arm, dict) or depth > MAX_STEPS:
        return UNKNOWN
    if "$ref" in arm:
        return led_to(arm["$ref"])
    if "const" in arm:
        return _kinds_of([arm["const"]])
    if isinstance(values := arm.get("enum"), list):
        return _kinds_of(values)
    arms = next((arm[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(arm.get(key), list)), None)
    if arms is not None:
        return frozenset().union(*(_kinds(each, led_to, depth + 1) for each in arms))
    own = types_of(arm) or (["object"] if "properties" in arm else [])
    return frozenset(kind if kind in WHOLE else None for kind in own) or UNKNOWN


def _kinds_of(values: Iterable[Any]) -> Kinds:
    return frozenset(KINDS[type(value)] for value in values)


def place_of(ref: str, root: Schema) -> Any:
    """What a reference within the schema leads to; None when there is nothing."""
    at: Any = root
    for part in ref.split("/")[1:]:
        at = at.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(at, dict) else None
    return at
