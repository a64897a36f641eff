"""The base of every noun: frozen, and no unknown keys; and how one is read from a TOML file."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from luthier.errors import InvalidInput
from luthier.platform.toml_lines import Place, key_lines

Element = TypeVar("Element")
ListOf = Annotated[list[Element], Field(fail_fast=True)]
TupleOf = Annotated[tuple[Element, ...], Field(fail_fast=True)]
"""Of a body, checked up to their first fault: each that is kept takes far longer than what is right."""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Of a row with a column for each field; it may have more."""
        return cls(**{name: row[name] for name in cls.model_fields})


class Strict(Frozen):
    """Nor is a value of another type taken for the right one, as "5" is for 5."""

    model_config = ConfigDict(strict=True)


Noun = TypeVar("Noun", bound=Frozen)


def read_toml(file: Path, kind: type[Noun]) -> Noun:
    """The noun in a file; a bad file is refused with its path, the line and the faulty key."""
    return TomlFile(file).noun(kind)


class TomlFile:
    """What a TOML file says, and on which line it says it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._text = file.read_text("utf-8")
            self.data: dict[str, Any] = tomllib.loads(self._text)
        except OSError as error:
            raise InvalidInput(f"{file}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{file}: not UTF-8: {error.reason} at byte {error.start}") from error
        except tomllib.TOMLDecodeError as error:
            raise self._not_toml(str(error)) from error

    def noun(self, kind: type[Noun], data: Mapping[str, Any] | None = None, *tables: Place) -> Noun:
        """The noun in the whole file, or in `data`, which was put together from these of its tables."""
        try:
            return kind.model_validate(self.data if data is None else data)
        except ValidationError as error:
            fault = first_fault(error)
            raise self.fault(fault["loc"], reason_of(kind, fault), *tables) from error

    def fault(self, key: Place, reason: str, *tables: Place) -> InvalidInput:
        """Says what is wrong with a key in one of these tables (the whole file by default), and where that is."""
        found = [self._find(key, table) for table in tables or ((),)]
        place, table = max(found, key=lambda each: len(each[0]) - len(each[1]))
        inner = place[len(table) :]
        missing = key[-1:] if key and inner[-1:] != key[-1:] else ()
        name = ".".join(map(str, (*inner, *missing)))
        return InvalidInput(f"{self.where(place)}: {name}{': ' if name else ''}{reason}")

    def where(self, place: Place) -> str:
        """path:line of a key or table."""
        return f"{self.file}:{self._lines.get(place, 1)}"

    def _find(self, key: Place, table: Place) -> tuple[Place, Place]:
        """The place of a key, or of the table that lacks it. pydantic's names for the arms of a union are no keys."""
        place = table
        for part in key:
            if (*place, part) in self._lines:
                place = (*place, part)
        return place, table

    @cached_property
    def _lines(self) -> dict[Place, int]:
        return key_lines(self._text)

    def _not_toml(self, reason: str) -> InvalidInput:
        at = re.search(r" \(at line (\d+), column \d+\)$", reason)
        line = at[1] if at else self._text.count("\n") + 1
        return InvalidInput(f"{self.file}:{line}: not valid TOML: {reason[: at.start()] if at else reason}")


def first_fault(error: ValidationError) -> ErrorDetails:
    """A misspelt key makes two faults, for the right one is missing: the misspelling is the one to tell."""
    return min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")


def nearest(name: str, known: Iterable[str], most: int = 3, likeness: float = 0.5) -> list[str]:
    """The known names that a misspelt one may mean, best first."""
    by_lower = {each.lower(): each for each in known}
    return [by_lower[each] for each in get_close_matches(name.lower(), by_lower, most, likeness)]


def reason_of(kind: type[BaseModel], fault: ErrorDetails) -> str:
    """What is wrong with the value at its place."""
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] != "extra_forbidden":
        return fault["msg"].removeprefix("Value error, ")
    *parents, name = fault["loc"]
    known = _keys(kind, tuple(parents))
    near = nearest(str(name), known, 1, 0.6)
    return f"unknown key; do you mean {near[0]}?" if near else f"unknown key; there are {', '.join(known)}"


def _keys(kind: type[BaseModel], parents: Place) -> list[str]:
    """The keys that a table may have."""
    kinds: list[type[BaseModel]] = [kind]
    for part in parents:
        fields = [each.model_fields[part] for each in kinds if part in each.model_fields]
        inner = [kind for field in fields for kind in _kinds_in(field.annotation)]
        kinds = inner or [each for each in kinds if part in _tags(each)] or kinds
    return list(dict.fromkeys(name for each in kinds for name in each.model_fields))


def _tags(kind: type[BaseModel]) -> tuple[Any, ...]:
    """How an arm of a union is told from the others."""
    return get_args(kind.model_fields["kind"].annotation) if "kind" in kind.model_fields else ()


def _kinds_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _kinds_in(part)]
