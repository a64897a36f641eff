"""Schemas in the words that xgrammar understands: in others it lets through what is no JSON, or finds no reference."""

import re
from typing import Any

from luthier.serve.doors.schema_kinds import Schema, schema_at, types_of, with_inner
from luthier.serve.doors.schema_texts import FORMATS, LENGTHS, bounds_of

FOUND = re.compile(r"#(/(\$defs|definitions)/[^/~%]+)*")
"""References that xgrammar follows: others lead through lists, by escapes, or to where something else is told."""


def for_grammar(schema: Schema) -> Schema:
    """Patterns for what it would let raw control characters into: lengths, some formats. References by name."""
    return _Telling(schema).told()


class _Telling:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._names: dict[str, str] = {}
        """Of definitions, by the references that lead there."""
        self._led_to: list[Schema] = []
        self._texts: Schema = {}

    def told(self) -> Schema:
        told: Schema = self._told(self._root)
        ends = [self._told(end) for end in self._led_to]  # which grows meanwhile
        more = self._texts | dict(zip(self._names.values(), ends, strict=True))
        return {**told, "$defs": {**told.get("$defs", {}), **more}} if more else told

    def _told(self, schema: Any) -> Any:
        """With references for bounded texts: what many properties share is compiled once."""
        if not isinstance(schema, dict):
            return schema
        told = with_inner(schema, self._told)
        if isinstance(ref := schema.get("$ref"), str):
            told["$ref"] = self._reference(ref)
        types = types_of(schema)
        if "string" not in types:
            return told
        if (pattern := FORMATS.get(str(told.get("format")))) is not None:
            return {**{key: value for key, value in told.items() if key != "format"}, "pattern": pattern}
        bounds = bounds_of(schema)
        if bounds is None or not LENGTHS & schema.keys():
            return told
        name = "luthier_text_{}_{}".format(*bounds)
        self._texts[name] = {"type": "string", "pattern": r"^[\s\S]{{{},{}}}$".format(*bounds)}
        free = {key: value for key, value in told.items() if key not in LENGTHS}
        arms = [{"$ref": f"#/$defs/{name}"}, *({**free, "type": kind} for kind in types if kind != "string")]
        return {"anyOf": arms, **{key: told[key] for key in ("$defs", "definitions") if key in told}}

    def _reference(self, ref: str) -> str:
        if FOUND.fullmatch(ref) or (end := schema_at(ref, self._root)) is None:
            return ref
        if ref not in self._names:
            self._names[ref] = f"luthier_end_{len(self._names)}"
            self._led_to.append(end)
        return f"#/$defs/{self._names[ref]}"
