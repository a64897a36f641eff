"""Where each key of a TOML text stands; tomllib does not tell. For texts that tomllib has accepted."""

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

Place = tuple[str | int, ...]
"""Keys and array indexes from the top of the text down; () is the text."""


def key_lines(text: str) -> dict[Place, int]:
    """The line, counted from 1, on which each key, table and element of an array begins: the text is read up to each
    line, and where that is TOML, or is once its array is closed, what is new has begun after what was before.

    Of an array over several lines within another, all has the line on which the inner one begins.
    """
    rows, lines, begin = text.replace("\r\n", "\n").split("\n"), dict[Place, int](), 1
    for end in range(1, len(rows) + 1):
        for closing in ("", "\n]"):
            with suppress(tomllib.TOMLDecodeError):
                places = _places(tomllib.loads("\n".join(rows[:end]) + closing))
                lines = dict.fromkeys(places, begin) | lines
                begin = end + 1
                break
    return lines


def _places(data: Any, at: Place = ()) -> Iterator[Place]:
    """Of all keys and array elements."""
    for key, inner in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*at, key)
        yield from _places(inner, (*at, key))
