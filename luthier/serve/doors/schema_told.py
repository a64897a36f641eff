"""Schemas in the words that xgrammar understands: in others it lets through what is no JSON, or finds no reference."""

import re
from typing import Any

from luthier.serve.doors.schema_kinds import Schema, schema_at, types_of, with_inner
from luthier.serve.doors.schema_texts import FORMATS, LENGTHS, bounds_of, pattern_of

FOUND = re.compile(r"#(/(\$defs|definitions)/[^/~%]+)?")
"""References that xgrammar follows: others lead through lists, by escapes, or to where something else is told."""

NAMED = re.compile("[a-z-]+")
"""A format, as far as xgrammar knows any."""


def for_grammar(schema: Schema) -> Schema:
    """Patterns for what it would let raw control characters into: lengths, some formats. References by name."""
    return _Telling(schema).told()


class _Telling:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._prefix = "luthier"
        while any(name.startswith(self._prefix) for name in root.get("$defs", ())):
            self._prefix += "_"
        self._names: dict[str, str] = {}
        """Of definitions, by the references that lead there, however those are written."""
        self._ends: dict[int, tuple[str, Any]] = {}
        """Definitions with their names. Each is told once: where it stood, a reference to it is."""
        self._texts: Schema = {}
        self._find_ends(root)

    def told(self) -> Schema:
        ends = {name: self._told_here(end) for name, end in self._ends.values()}
        told: Schema = self._told_here(self._root)
        more = self._texts | ends
        return {**told, "$defs": {**told.get("$defs", {}), **more}} if more else told

    def _find_ends(self, schema: Any) -> Any:
        if isinstance(schema, dict):
            if isinstance(ref := schema.get("$ref"), str) and ref not in self._names and not FOUND.fullmatch(ref):
                self._find_end(ref)
            with_inner(schema, self._find_ends)
        return schema

    def _find_end(self, ref: str) -> None:
        if (end := schema_at(ref, self._root)) is not None:
            name, _ = self._ends.setdefault(id(end), (f"{self._prefix}_end_{len(self._ends)}", end))
            self._names[ref] = name

    def _told(self, schema: Any) -> Any:
        if isinstance(schema, dict) and id(schema) in self._ends:
            return _to(self._ends[id(schema)][0])
        return self._told_here(schema)

    def _told_here(self, schema: Any) -> Any:
        """With references for bounded texts: what many properties share is compiled once."""
        if not isinstance(schema, dict):
            return schema
        told = with_inner(schema, self._told)
        if isinstance(ref := schema.get("$ref"), str) and ref in self._names:
            told |= _to(self._names[ref])
        types = types_of(schema)
        if "string" not in types:
            return told
        if (name := self._text(schema)) is None:
            return told
        free = {key: value for key, value in told.items() if key not in LENGTHS | {"format"}}
        arms = [_to(name), *({**free, "type": kind} for kind in types if kind != "string")]
        return {"anyOf": arms, **{key: told[key] for key in ("$defs", "definitions") if key in told}}

    def _text(self, schema: Schema) -> str | None:
        """The name of its text's definition, where that is told in other words or takes long to compile."""
        if NAMED.fullmatch(given := str(schema.get("format", ""))):
            name, pattern = f"{self._prefix}_text_{given}", FORMATS.get(given)
            self._texts[name] = {"type": "string", **({"format": given} if pattern is None else {"pattern": pattern})}
            return name
        bounds = bounds_of(schema)
        if bounds is None or not LENGTHS & schema.keys():
            return None
        name = "{}_text_{}_{}".format(self._prefix, *bounds)
        self._texts[name] = {"type": "string", "pattern": pattern_of(*bounds)}
        return name


def _to(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
