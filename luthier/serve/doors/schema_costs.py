"""What the grammar of a schema takes to compile: an engine does it for all who ask, and nobody can stop it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from luthier.serve.doors.schema_kinds import Schema, types_of
from luthier.serve.doors.schema_texts import LENGTHS, bounds_of

MAX_PROPERTIES, MAX_COUNTED, MAX_PLACES, MAX_REPEAT = 500, 2_000, 3_000, 128
"""Of properties, then those of objects whose number is bounded, times that number; of characters that patterns and
lengths ask for; of one repeat in a pattern: xgrammar compiles none above."""
OF_IPV6 = 50
"""Characters that stand for such an address: told once, it is still compiled where it stands."""
OF_EMPTY = 8
"""What it takes, as a factor, to repeat what may be empty: there are many ways through it."""
FAR = 10**6
TOKEN = re.compile(
    r"\\u\{[0-9a-fA-F]+\}|\\.|\[(?:\\.|[^\]\\])*+\]"
    r"|(?P<mark>\((?:\?:)?|[)|*+?^$])|\{ *(?P<least>\d+) *(?P<more>, *(?P<most>\d*) *)?\}|.",
    re.DOTALL,
)


def cost_fault(schemas: Iterable[Schema]) -> str | None:
    """Of what they have too much, together."""
    lengths: set[tuple[int, int | str]] = set()
    num_properties = num_counted = num_places = 0
    for schema in schemas:
        held = len(given) if isinstance(given := schema.get("properties"), dict) else 0
        num_properties += held
        num_counted += held * min(held, _most_properties(schema))
        num_places += _places_of(schema, lengths)
        if num_places > MAX_PLACES:
            return f"patterns and lengths of texts that come to more than {MAX_PLACES} characters (equal lengths once)"
    if num_properties > MAX_PROPERTIES:
        return f"{num_properties} properties, more than {MAX_PROPERTIES}"
    if num_counted > MAX_COUNTED:
        many = "'minProperties' or 'maxProperties' beside too many 'properties'"
        return f"{many}: their numbers times each other come to {num_counted}, more than {MAX_COUNTED}"
    return None


def _most_properties(schema: Schema) -> int:
    """That the grammar counts to; where only the least is given, to as many as there are."""
    most = schema.get("maxProperties")
    if isinstance(most, int):
        return max(most, 0)
    return FAR if schema.get("minProperties") else 0


def _places_of(schema: Schema, lengths: set[tuple[int, int | str]]) -> int:
    """Of its text; bounds that are among `lengths` are told already."""
    if schema.get("pattern") is not None:
        return pattern_size(str(schema["pattern"]))
    if schema.get("format") == "ipv6":
        return OF_IPV6
    bounds = bounds_of(schema) if LENGTHS & schema.keys() and "string" in types_of(schema) else None
    if bounds is None or bounds in lengths:
        return 0
    lengths.add(bounds)
    least, most = bounds
    return most if isinstance(most, int) else least


def repeats_too_often(pattern: str) -> bool:
    repeats = (found for found in TOKEN.finditer(pattern) if found["least"])
    return any(int(found["most"] or found["least"]) > MAX_REPEAT for found in repeats)


@dataclass
class _Group:
    """What stands between two brackets so far."""

    size: int = 0
    last: int = 0
    """Of the part that a repeat would be of."""
    is_last_empty: bool = True
    is_arm_empty: bool = True
    is_some_arm_empty: bool = False
    """They may be."""

    def add(self, size: int, is_empty: bool) -> None:
        self.size += self.last
        self.is_arm_empty &= self.is_last_empty
        self.last, self.is_last_empty = size, is_empty

    def repeat(self, least: int, most: int) -> None:
        factor = OF_EMPTY if self.is_last_empty and most > 1 else 1
        self.last = min(self.last * max(most, 1) * factor, FAR)
        self.is_last_empty |= least == 0

    def end_arm(self) -> None:
        self.add(0, True)
        self.is_some_arm_empty |= self.is_arm_empty
        self.is_arm_empty = True


def pattern_size(pattern: str) -> int:
    """Characters that it asks for, each repeat written out."""
    groups = [_Group()]
    for found in TOKEN.finditer(pattern):
        mark = found["mark"]
        if found["least"]:
            least = int(found["least"])
            most = int(found["most"]) if found["most"] else least + bool(found["more"])
            groups[-1].repeat(least, most)
        elif mark is None:
            groups[-1].add(1, is_empty=False)
        elif mark.startswith("("):
            groups.append(_Group())
        elif mark == ")" and len(groups) > 1:
            _close(groups)
        elif mark == "|":
            groups[-1].end_arm()
        elif mark in "*?":
            groups[-1].repeat(0, 1)
    while len(groups) > 1:
        _close(groups)
    return groups[0].size + groups[0].last


def _close(groups: list[_Group]) -> None:
    ended = groups.pop()
    ended.end_arm()
    groups[-1].add(ended.size, ended.is_some_arm_empty)
