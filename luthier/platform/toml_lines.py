"""Where each key of a TOML text stands; tomllib does not tell. For texts that tomllib has accepted."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

Place = tuple[str | int, ...]
"""Keys and array indexes from the top of the text down; () is the text."""

_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\])*"'
    r"|'[^']*'"
    r"|\#[^\n]*"
    r"|[\n\[\]{}=,.]"
    r"|[^\s\[\]{}=,.\"'\#]+",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Token:
    text: str
    line: int


def key_lines(text: str) -> dict[Place, int]:
    """The line, counted from 1, of each key, table header and array element."""
    return _Reader(text).read()


class _Reader:
    """Reads downward; each method takes the tokens of what it is named for."""

    def __init__(self, text: str) -> None:
        self._tokens = [*_tokens(text), _Token("", text.count("\n") + 1)]
        self._at = 0
        self._lines: dict[Place, int] = {}
        self._num_tables: dict[Place, int] = {}
        """How many [[tables]] each array of them has so far."""

    def read(self) -> dict[Place, int]:
        table: Place = ()
        while self._peek():
            if self._peek() == "\n":
                self._next()
            elif self._peek() == "[":
                table = self._header()
            else:
                self._key_and_value(table)
        return self._lines

    def _header(self) -> Place:
        line = self._next().line
        is_array = self._peek() == "["
        if is_array:
            self._next()
        *parents, last = self._key()
        place: Place = ()
        for part in parents:
            place = self._newest((*place, part))
            self._lines.setdefault(place, line)
        place = (*place, last)
        self._lines.setdefault(place, line)
        if is_array:
            self._num_tables[place] = self._num_tables.get(place, 0) + 1
            place = self._newest(place)
            self._lines[place] = line
        while self._peek() == "]":
            self._next()
        return place

    def _newest(self, place: Place) -> Place:
        """In an array of tables, its newest one."""
        number = self._num_tables.get(place, 0)
        return (*place, number - 1) if number else place

    def _key_and_value(self, table: Place) -> None:
        line, place = self._tokens[self._at].line, table
        for part in self._key():
            place = (*place, part)
            self._lines.setdefault(place, line)
        self._next()  # =
        self._value(place)

    def _key(self) -> list[str]:
        parts = [_plain(self._next().text)]
        while self._peek() == ".":
            self._next()
            parts.append(_plain(self._next().text))
        return parts

    def _value(self, place: Place) -> None:
        if self._peek() == "[":
            self._array(place)
        elif self._peek() == "{":
            self._inline_table(place)
        else:
            while self._peek() not in ("\n", ",", "]", "}", ""):
                self._next()

    def _array(self, place: Place) -> None:
        self._next()
        num = 0
        while self._peek() != "]":
            if self._peek() in ("\n", ","):
                self._next()
            else:
                self._lines[(*place, num)] = self._tokens[self._at].line
                self._value((*place, num))
                num += 1
        self._next()

    def _inline_table(self, place: Place) -> None:
        self._next()
        while self._peek() != "}":
            if self._peek() in ("\n", ","):
                self._next()
            else:
                self._key_and_value(place)
        self._next()

    def _peek(self) -> str:
        """The text of the next token; "" at the end."""
        return self._tokens[self._at].text

    def _next(self) -> _Token:
        self._at += 1
        return self._tokens[self._at - 1]


def _tokens(text: str) -> Iterator[_Token]:
    line, counted = 1, 0
    for match in _TOKEN.finditer(text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        if not match[0].startswith("#"):
            yield _Token(match[0], line)


def _plain(key: str) -> str:
    """A key without its quotes. Escapes in a quoted key are left as they are."""
    return key[1:-1] if key[0] in "\"'" else key
