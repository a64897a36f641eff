"""Whether the arms of a `oneOf` exclude each other: the grammar lets any of them through, and looks at no other.

A tag tells objects apart only where it is there, and pydantic does not require one with a default: answers get it.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, NamedTuple

from luthier.serve.doors.schema_kinds import (
    ARMS,
    UNTYPED,
    Kinds,
    KindsWithin,
    Schema,
    given_values,
    ruler_of,
    with_inner,
)

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
        self._tags: dict[int, dict[str, None]] = {}
        self._steps_left = MAX_STEPS

    def exclude(self, arms: list[Any], tag: str | None) -> bool:
        """No value is let through by two of them, as their types or values say, or those of a required property.

        Or of one that may be required: `tag`, where it is one, else the first that is.
        """
        if len(arms) > MAX_ARMS:
            return False
        if all(self._differ(one, other) for one, other in combinations(map(self._reach, arms), 2)):
            return True
        objects = [arm for arm in arms if self._kinds.of(arm) <= OBJECT]
        return self._are_apart_from_others(arms) and self._are_tagged([self._leaves(arm) for arm in objects], tag)

    def with_tags(self, schema: Schema) -> Schema:
        """The schema, or one in it, with the tags required by which arms of `oneOf` exclude each other."""
        return self._with_tags(schema) if self._tags else schema

    def _with_tags(self, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        changed = with_inner(schema, self._with_tags)
        if tags := self._tags.get(id(schema)):
            required = schema.get("required", [])
            changed["required"] = [*required, *(tag for tag in tags if tag not in required)]
        return changed

    def _are_apart_from_others(self, arms: list[Any]) -> bool:
        """Each two of them of which one is no object."""
        reached = [self._reach(arm) for arm in arms]
        pairs = combinations(reached, 2)
        return all(self._differ(*pair) for pair in pairs if not (pair[0].kinds | pair[1].kinds) <= OBJECT)

    def _leaves(self, arm: Any) -> list[Schema]:
        """The schemas of the objects that it lets through: its own, or those of its arms in turn."""
        ends = [self._kinds.end(arm)]
        known = {id(end) for end in ends}
        for end in ends:
            ruler = ruler_of(end)
            inner = [self._kinds.end(each) for each in end[ruler]] if ruler in ARMS else []
            self._steps_left -= len(inner)
            if self._steps_left < 0:
                return []
            new = {id(each): each for each in inner if id(each) not in known}
            known |= new.keys()
            ends.extend(new.values())
        return [end for end in ends if ruler_of(end) not in ARMS]

    def _are_tagged(self, objects: list[list[Schema]], given: str | None) -> bool:
        """The leaves of each arm have a property with values that no other arm's have. It is kept as their tag."""
        if not all(objects):
            return False
        names = dict.fromkeys([*([given] if given is not None else ()), *self._reach(objects[0][0]).properties])
        tag = next((name for name in names if self._is_tag(name, objects)), None)
        if tag is None:
            return False
        for leaf in (leaf for leaves in objects for leaf in leaves):
            self._tags.setdefault(id(leaf), {})[tag] = None
        return True

    def _is_tag(self, name: str, objects: list[list[Schema]]) -> bool:
        known: set[tuple[bool, Any]] = set()
        for leaves in objects:
            held = [self._tag_values(leaf, name) for leaf in leaves]
            values: Values = frozenset().union(*held)
            if not all(held) or not known.isdisjoint(values):
                return False
            known |= values
        return True

    def _tag_values(self, leaf: Schema, name: str) -> Values:
        """None of a property that is no tag, or may not be required."""
        self._steps_left -= PAIR
        may_require = isinstance(leaf.get("required", []), list) and "maxProperties" not in leaf
        tag = self._reach(leaf).properties.get(name) if may_require else None
        values = self._reach(tag).values or frozenset()
        self._steps_left -= len(values)
        return values if self._steps_left > 0 else frozenset()

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
