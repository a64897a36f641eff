"""Whether the arms of a `oneOf` exclude each other: the grammar lets any of them through, and looks at no other."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from luthier.serve.doors.schema_kinds import UNTYPED, Kinds, KindsWithin, Schema, given_values

MAX_ARMS, MAX_STEPS = 64, 200_000
PAIR = 10
"""What it takes to compare two arms, or two properties; two values take 1."""
OBJECT: Kinds = frozenset(["object", UNTYPED])

Values = frozenset[tuple[bool, Any]]


class _Reach(NamedTuple):
    """What an arm, or a property of one, lets through."""

    kinds: Kinds
    values: Values | None
    """None where they can be many."""
    properties: Mapping[str, Any]
    required: frozenset[str]
    is_closed: bool


class Arms:
    """Of one schema. In all of them no more than MAX_STEPS are taken to tell arms apart."""

    def __init__(self, kinds: KindsWithin) -> None:
        self._kinds = kinds
        self._reached: dict[int, _Reach] = {}
        self._steps_left = MAX_STEPS

    def exclude(self, arms: list[Any]) -> bool:
        """No value is let through by two of them, as their types or values say, or those of a required property."""
        if len(arms) > MAX_ARMS:
            return False
        return all(self._differ(one, other) for one, other in combinations(map(self._reach, arms), 2))

    def _reach(self, arm: Any) -> _Reach:
        end = self._kinds.end(arm)
        if id(end) not in self._reached:
            self._reached[id(end)] = _reach(end, self._kinds.of(end))
        return self._reached[id(end)]

    def _differ(self, one: _Reach, other: _Reach) -> bool:
        if self._are_apart(one, other):
            return True
        if not (one.kinds <= OBJECT and other.kinds <= OBJECT):
            return False
        return any(self._lacks(other, one, name) for name in one.required) or any(
            self._lacks(one, other, name) for name in other.required - one.required
        )

    def _lacks(self, arm: _Reach, other: _Reach, name: str) -> bool:
        """It takes no object with what the other requires under the name; the other none without it."""
        if name not in arm.properties:
            self._steps_left -= PAIR
            return arm.is_closed and self._steps_left > 0
        return self._are_apart(self._reach(arm.properties[name]), self._reach(other.properties[name]))

    def _are_apart(self, one: _Reach, other: _Reach) -> bool:
        """As types or values say."""
        self._steps_left -= PAIR
        if self._steps_left < 0:
            return False
        if not {None, UNTYPED} & (one.kinds | other.kinds) and not one.kinds & other.kinds:
            return True
        if one.values is None or other.values is None:
            return False
        self._steps_left -= min(len(one.values), len(other.values))
        return self._steps_left > 0 and one.values.isdisjoint(other.values)


def _reach(schema: Schema, kinds: Kinds) -> _Reach:
    properties, required = schema.get("properties") or {}, schema.get("required")
    names = properties.keys() & set(map(str, required)) if isinstance(required, list) else ()
    return _Reach(kinds, _values(schema), properties, frozenset(names), schema.get("additionalProperties") is False)


def _values(schema: Schema) -> Values | None:
    """As JSON compares them: 1 is 1.0, and not true."""
    values = given_values(schema)
    if values is None or any(isinstance(each, list | dict) for each in values):
        return None
    return frozenset((isinstance(each, bool), each) for each in values)
