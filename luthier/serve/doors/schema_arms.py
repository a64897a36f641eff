"""Whether the arms of a `oneOf` exclude each other: the grammar lets any of them through, and looks at no other."""

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from luthier.serve.doors.schema_kinds import KINDS, MAX_STEPS, Schema, place_of, types_of

MAX_ARMS = 64

Kinds = frozenset[str | None]
Values = frozenset[tuple[bool, Any]]


class _Reach(NamedTuple):
    """What an arm lets through."""

    kinds: Kinds
    """None among them: anything."""
    values: Values | None
    marks: Mapping[str, Values]
    """Of an object: the values of required properties that can have few."""


class Arms:
    """Of one schema."""

    def __init__(self, root: Schema) -> None:
        self._root = root

    def exclude(self, arms: list[Any]) -> bool:
        """No value is let through by two of them, as their types, values, or those of a required property say."""
        if len(arms) > MAX_ARMS:
            return False
        return all(_differ(one, other) for one, other in combinations(map(self._reach, arms), 2))

    def _reach(self, arm: Any) -> _Reach:
        arm = self._led(arm)
        kinds = self._kinds(arm)
        return _Reach(kinds, _values(arm), self._marks(arm) if kinds == {"object"} else {})

    def _led(self, arm: Any) -> Any:
        """Where references lead to."""
        for _ in range(MAX_STEPS):
            if not isinstance(arm, dict) or "$ref" not in arm:
                break
            arm = place_of(str(arm["$ref"]), self._root)
        return arm if isinstance(arm, dict) else {}

    def _kinds(self, arm: Any, depth: int = 0) -> Kinds:
        arm = self._led(arm)
        if depth > MAX_STEPS:
            return frozenset([None])
        if (values := _given(arm)) is not None:
            return frozenset(map(_kind_of, values))
        inner = next((arm[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(arm.get(key), list)), None)
        if inner is not None:
            return frozenset[str | None]().union(*(self._kinds(each, depth + 1) for each in inner))
        types: list[str | None] = [*types_of(arm)] or [None]
        return frozenset(kind for each in types for kind in (("integer", "fraction") if each == "number" else (each,)))

    def _marks(self, arm: Schema) -> dict[str, Values]:
        properties, required = arm.get("properties"), arm.get("required")
        if not isinstance(properties, dict) or not isinstance(required, list):
            return {}
        found = {name: _values(self._led(properties.get(name))) for name in map(str, required)}
        return {name: values for name, values in found.items() if values is not None}


def _differ(one: _Reach, other: _Reach) -> bool:
    if None not in one.kinds | other.kinds and not one.kinds & other.kinds:
        return True
    if one.values is not None and other.values is not None:
        return not one.values & other.values
    return any(not one.marks[name] & other.marks[name] for name in one.marks.keys() & other.marks.keys())


def _given(arm: Schema) -> list[Any] | None:
    """All that it lets through, where it says so."""
    if "const" in arm:
        return [arm["const"]]
    return arm["enum"] if isinstance(arm.get("enum"), list) else None


def _values(arm: Schema) -> Values | None:
    """As JSON compares them: 1 is 1.0, and not true."""
    given: Iterable[Any] | None = _given(arm)
    if given is None or any(isinstance(each, list | dict) for each in given):
        return None
    return frozenset((isinstance(each, bool), each) for each in given)


def _kind_of(value: Any) -> str:
    if isinstance(value, float):
        return "integer" if value.is_integer() else "fraction"
    return KINDS[type(value)]
