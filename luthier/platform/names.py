"""Snowflake identifiers: how a name is folded, qualified and written back.

An unquoted part folds to upper case, a quoted part keeps its case; two names are equal when their folded keys are.
"""

import re
from dataclasses import dataclass, field

from luthier.errors import InvalidInput

MAX_IDENTIFIER_CHARS = 255

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*", re.ASCII)
_FOLDED = re.compile(r"[A-Z_][A-Z0-9_$]*", re.ASCII)
_PART = re.compile(r'\s*("(?:[^"]|"")*"|[^".]*)\s*', re.DOTALL)


@dataclass(frozen=True)
class QualifiedName:
    """A table or model by its folded keys.

    `display` is how the user wrote it, the defaults in front: it parses back to the same name, and takes no part in
    equality.
    """

    database: str
    schema: str
    name: str
    display: str = field(default="", compare=False)

    @property
    def dotted(self) -> str:
        """All three parts, quoted where they must be: parses back to an equal name."""
        return ".".join(quote_if_needed(part) for part in self.parts)

    @property
    def parts(self) -> tuple[str, str, str]:
        return (self.database, self.schema, self.name)

    def __str__(self) -> str:
        return self.display or self.dotted


def parse_name(text: str, default_database: str, default_schema: str) -> QualifiedName:
    """`name`, `schema.name` or `database.schema.name`; the defaults are folded keys and fill what is missing."""
    written = _split(text)
    if len(written) > 3:
        raise InvalidInput(f"The name {text} has {len(written)} parts: at most database.schema.name is allowed.")
    defaults = [default_database, default_schema][: 3 - len(written)]
    keys = defaults + [fold(part) for part in written]
    display = ".".join([*map(quote_if_needed, defaults), *written])
    return QualifiedName(keys[0], keys[1], keys[2], display=display)


def parse_schema(text: str, default_database: str) -> tuple[str, str]:
    """The folded keys of `schema` or `database.schema`."""
    written = _split(text)
    if len(written) > 2:
        raise InvalidInput(f"The name {text} has {len(written)} parts: a schema's has at most database.schema.")
    database, schema = [default_database, *map(fold, written)][-2:]
    return database, schema


def fold(text: str) -> str:
    """The key of one identifier as written: `train` -> TRAIN, `"train"` -> train, `"a""b"` -> a"b."""
    if text.startswith('"'):
        key = _unquote(text)
    elif not text:
        raise InvalidInput("The name, or one of its parts, is empty.")
    elif not _PLAIN.fullmatch(text):
        raise InvalidInput(_plain_fault(text))
    else:
        key = text.upper()
    if len(key) > MAX_IDENTIFIER_CHARS:
        raise InvalidInput(
            f"The name {key[:20]}... has {len(key)} characters: at most {MAX_IDENTIFIER_CHARS} are allowed."
        )
    return key


def quote(key: str) -> str:
    """A folded key in double quotes, fit for any SQL text."""
    return '"' + key.replace('"', '""') + '"'


def quote_if_needed(key: str) -> str:
    return key if _FOLDED.fullmatch(key) else quote(key)


def as_written(key: str) -> str:
    """As a column's name is written, which keeps its case without quotes too."""
    return key if _PLAIN.fullmatch(key) else quote(key)


def _split(text: str) -> list[str]:
    """The parts between the dots that stand outside double quotes."""
    parts, at = [], 0
    while True:
        match = _PART.match(text, at)
        assert match is not None  # every piece of the pattern may be empty
        parts.append(match[1].strip() if not match[1].startswith('"') else match[1])
        at = match.end()
        if at == len(text):
            return parts
        if text[at] != ".":
            raise InvalidInput(
                f"The name {text} has a double quote out of place: quote a whole part, and a quote as two."
            )
        at += 1


def _unquote(text: str) -> str:
    body = text[1:-1]
    if len(text) < 2 or not text.endswith('"') or '"' in body.replace('""', ""):
        raise InvalidInput(f"The name {text} has a double quote out of place: quote a whole part, and a quote as two.")
    if not body:
        raise InvalidInput("The name, or one of its parts, is empty.")
    if "\0" in body:
        raise InvalidInput("The name has a NUL character in it.")
    return body.replace('""', '"')


def _plain_fault(text: str) -> str:
    if not _PLAIN.match(text[0]):
        rule = "starts with neither a letter nor an underscore"
    else:
        odd = next(char for char in text if not re.match(r"[A-Za-z0-9_$]", char))
        rule = f"has {odd!r} in it, where only letters, digits, underscore and $ may stand"
    return f"The name {text} {rule}. Put it in double quotes to use it as it is."
