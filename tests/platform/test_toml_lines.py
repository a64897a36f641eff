"""Lines of keys: every key that tomllib finds has its line, whatever way the text is written."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from luthier.platform.settings import configs_dir
from luthier.platform.toml_lines import Place, key_lines

TEXT = '''# a = 0
plain = 1  # [b]
"quoted # key" = "a # \\" = { ["
'other' . nested."deep"= 1979-05-27 07:32:00
long = """
fake = 1
\\""" [no.table] ""\\
""""
raw = \'\'\'
fake = 2'\'\'\'\'
list = [
  1, 2.5e-1,  # not = 3

  [ "a", 'b,]' ],
  { x = 1, y.z = [ { w = 0 } ] },
]

[table]
empty = ""
nothing = {}
none = []
[table.inner.most]
key = 1
[[ rows ]]
name = "first"
[rows.of_first]
a = 1
[[rows]]
name = "second"
[[rows.parts]]
b = 1
[[rows.parts]]
[[rows.parts]]
[rows.parts.last]
c = true
'''
LINES: dict[Place, int] = {
    ("plain",): 2,
    ("quoted # key",): 3,
    ("other", "nested", "deep"): 4,
    ("long",): 5,
    ("raw",): 9,
    ("list", 1): 12,
    ("list", 2, 1): 14,
    ("list", 3, "y", "z", 0, "w"): 15,
    ("table", "inner", "most", "key"): 23,
    ("rows", 0): 24,
    ("rows", 0, "of_first", "a"): 27,
    ("rows", 1, "name"): 29,
    ("rows", 1, "parts", 2): 33,
    ("rows", 1, "parts", 2, "last", "c"): 35,
}
FILES = sorted(configs_dir().rglob("*.toml"))


def places(data: Any, at: Place = ()) -> set[Place]:
    """Of all keys and array elements."""
    pairs = list(data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ())
    found = {(*at, key) for key, _ in pairs}
    return found.union(*(places(inner, (*at, key)) for key, inner in pairs))


def test_all_ways_to_write_a_key() -> None:
    lines = key_lines(TEXT)
    assert set(lines) == places(tomllib.loads(TEXT))
    assert {place: lines[place] for place in LINES} == LINES


def test_lines_that_end_in_two_characters() -> None:
    assert key_lines(TEXT.replace("\n", "\r\n")) == key_lines(TEXT)


@pytest.mark.parametrize("text", ["", "\n", "# only\n#", "a=1", "[a]", "[[a]]\n\n", "a.b=1\n[a.c]"])
def test_small_texts(text: str) -> None:
    assert set(key_lines(text)) == places(tomllib.loads(text))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_files(file: Path) -> None:
    text = file.read_text()
    rows, found = text.splitlines(), key_lines(text)
    assert set(found) == places(tomllib.loads(text))
    assert all(place[-1] in rows[line - 1] for place, line in found.items() if isinstance(place[-1], str))
