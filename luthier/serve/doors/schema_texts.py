"""Texts that a schema bounds. xgrammar writes raw what JSON escapes: that is refused, or told in other words."""

import re
from collections.abc import Iterator

from luthier.serve.doors.schema_kinds import Schema, types_of

LENGTHS = {"minLength", "maxLength"}
MAX_LENGTH = 2_000
"""Characters up to which a text's bounds are told as a pattern: with more that takes seconds to compile. Where longer
texts are allowed, those up to here are let through."""
BLOCK = 64
"""Characters that are counted at once: of one repeat xgrammar counts no more than 128."""

ANY = r"[\s\S]"
"""But what JSON escapes."""
DOMAIN = r"[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
WORD = r"[A-Za-z0-9_!#$%&'*+/=?^`{|}~-]+"
POINTER = "(/([^~/]|~[01])*)*"
FORMATS = {
    "email": rf"^{WORD}(\.{WORD})*@{DOMAIN}(\.{DOMAIN})*$",
    "json-pointer": f"^{POINTER}$",
    "relative-json-pointer": f"^(0|[1-9][0-9]*)(#|{POINTER})$",
}
"""Instead of xgrammar's own, which have raw backslashes and control characters in them."""

MAX_PATTERN = 4_000
"""Characters."""
PART = re.compile(r"\\.|\[(?P<negation>\^?)(?P<held>(?:\\.|[^\]\\])*+)(?P<end>\]?)", re.DOTALL)
"""An escape, or a class of characters, which may lack its end: that is looked for once."""
ATOM = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))|([^\\])", re.DOTALL)
CLASSES = "dDwWsS"
"""By these letters; each has characters that JSON does not escape."""
LESS = re.compile(r"[^\\-]{0,4}(\\D|\\W(\\d)?)[^\\-]{0,4}")
"""In a negated class: digits, letters or both, without some of them but never without all."""
CONTROLS = "nrtfv0"
UNKNOWN, LAST = -1, 0x10FFFF


def text_fault(schema: Schema) -> str | None:
    """Why an answer would not be held to it, or be no JSON."""
    has_lengths = bool(LENGTHS & schema.keys())
    pattern = str(schema["pattern"]) if schema.get("pattern") is not None else None
    if pattern is not None and (reason := _pattern_fault(pattern)):
        return f"'pattern' {reason}"
    if (pattern or "format" in schema) and has_lengths:
        return "'minLength' and 'maxLength' cannot be kept to beside 'pattern' or 'format'"
    if pattern and "format" in schema:
        return "'pattern' cannot be kept to beside 'format'"
    if has_lengths and "string" in types_of(schema) and bounds_of(schema) is None:
        return f"'minLength' is no whole number up to {MAX_LENGTH}, or 'maxLength' none from there"
    return None


def bounds_of(schema: Schema) -> tuple[int, int | str] | None:
    """The lengths that a text may have, as a pattern takes them; None when they are no such bounds."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    if type(least) is not int or not 0 <= least <= MAX_LENGTH:
        return None
    if most == "":
        return least, most
    return (least, min(most, MAX_LENGTH)) if type(most) is int and least <= most else None


def pattern_of(least: int, most: int | str) -> str:
    """Of texts between these lengths."""
    free = _up_to(most - least) if isinstance(most, int) else ANY + "*"
    return f"^{_exactly(least)}{free}$"


def _exactly(num: int) -> str:
    blocks, rest = divmod(num, BLOCK)
    return (f"({ANY}{{{BLOCK}}}){{{blocks}}}" if blocks else "") + (f"{ANY}{{{rest}}}" if rest else "")


def _up_to(num: int) -> str:
    """Blocks, and then what leaves no length out. Of blocks that end anywhere a grammar takes far longer to compile."""
    blocks = max(num // BLOCK - 1, 0)
    return (f"({ANY}{{{BLOCK}}}){{0,{blocks}}}" if blocks else "") + f"{ANY}{{0,{num - blocks * BLOCK}}}"


def _pattern_fault(pattern: str) -> str | None:
    if len(pattern) > MAX_PATTERN:
        return f"has more than {MAX_PATTERN} characters"
    if re.search(r"\(\?<?[=!]|\\[bB]", pattern):
        return "looks around, which cannot be kept to"
    if re.search(r"\(\?(?!:)", pattern):
        return "names a group or sets flags, which cannot be kept to"
    classes = [found for found in PART.finditer(pattern) if found["held"] is not None]
    if classes and not classes[-1]["end"]:
        return "has a '[' that is not closed"
    if _writes_raw(pattern, classes):
        return "asks for a quote, a backslash, a control character or by an unknown escape"
    return None


def _writes_raw(pattern: str, classes: list[re.Match[str]]) -> bool:
    """A class loses what JSON escapes, unless nothing else is in it: then it is written as it stands."""
    if any(_is_raw_class(found["negation"], found["held"]) for found in classes):
        return True
    bare = PART.sub(lambda found: found[0] if found["held"] is None else "", pattern)
    return any(map(_is_raw, _points(bare)))


def _is_raw_class(negation: str, held: str) -> bool:
    """Where that is not known, too."""
    points = list(_points(held))
    if UNKNOWN in points or not points:
        return True
    if negation:
        return bool(re.search(r"\\[DSW]", held) and not LESS.fullmatch(held)) or max(points) >= LAST
    if held.startswith("-") or held.endswith("-"):
        return False
    return all(_is_raw(point) for point in points if point != ord("-"))


def _points(text: str) -> Iterator[int]:
    """The characters of a pattern by their numbers, or one of many."""
    for *numbers, escaped, plain in ATOM.findall(text):
        if number := "".join(numbers):
            yield int(number, 16)
        elif escaped.isalnum():
            yield ord("0") if escaped in CLASSES else 0 if escaped in CONTROLS else UNKNOWN
        else:
            yield ord(escaped or plain)


def _is_raw(point: int) -> bool:
    return point < 0x20 or chr(min(point, LAST)) in '"\\'
