"""Folding, qualifying and writing back of Snowflake identifiers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import InvalidInput
from luthier.platform.names import MAX_IDENTIFIER_CHARS, QualifiedName, fold, parse_name

KEYS = st.text(min_size=1, max_size=MAX_IDENTIFIER_CHARS).filter(lambda key: "\0" not in key)


@pytest.mark.parametrize(
    ("text", "key"),
    [("train", "TRAIN"), ("_a$1", "_A$1"), ('"train"', "train"), ('"a""b"', 'a"b'), ('"a.b c"', "a.b c"), ("Z", "Z")],
)
def test_folding(text: str, key: str) -> None:
    assert fold(text) == key


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train", ("DB", "S", "TRAIN")),
        ("other.train", ("DB", "OTHER", "TRAIN")),
        (' x.y."z.z" ', ("X", "Y", "z.z")),
        ('"x"."""". z', ("x", '"', "Z")),
        ('"my db".public.t', ("my db", "PUBLIC", "T")),
    ],
)
def test_qualifying(text: str, parts: tuple[str, str, str]) -> None:
    name = parse_name(text, "DB", "S")
    assert name.parts == parts
    assert parse_name(name.display, "", "") == name


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a..b", "empty"),
        ("a.", "empty"),
        ('""', "empty"),
        ("1a", "starts with neither"),
        ("$a", "starts with neither"),
        ("a-b", "'-'"),
        ("a b", "' '"),
        ("stra\u00dfe", "'\u00df'"),
        ("a.b.c.d", "4 parts"),
        ('"a', "double quote out of place"),
        ('a"b"', "double quote out of place"),
        ('"a"b', "double quote out of place"),
        ('"a""', "double quote out of place"),
        ("x" * 256, "256 characters"),
        ('"a\0b"', "NUL"),
        ("t; drop table t", "';'"),
    ],
)
def test_broken_names_say_which_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_name(text, "DB", "S")
    assert rule in caught.value.message


def test_longest_name_is_accepted() -> None:
    assert fold('"' + "x" * MAX_IDENTIFIER_CHARS + '"') == "x" * MAX_IDENTIFIER_CHARS


def test_display_takes_no_part_in_equality() -> None:
    upper, lower = parse_name("TRAIN", "DB", "S"), parse_name("train", "DB", "S")
    assert upper == lower
    assert len({upper, lower}) == 1
    assert parse_name('"train"', "DB", "S") != lower


def test_dotted_quotes_only_where_needed() -> None:
    assert parse_name("luthier.public.train", "", "").dotted == "LUTHIER.PUBLIC.TRAIN"
    assert parse_name('a."b"."c""d"', "", "").dotted == 'A."b"."c""d"'


@given(KEYS, KEYS, KEYS)
def test_dotted_parses_back(database: str, schema: str, name: str) -> None:
    qualified = QualifiedName(database, schema, name)
    assert parse_name(qualified.dotted, "OTHER", "OTHER") == qualified


@given(st.text(max_size=40))
def test_any_text_parses_and_writes_back_or_is_refused(text: str) -> None:
    try:
        name = parse_name(text, "DB", "S")
    except InvalidInput:
        return
    assert parse_name(name.dotted, "X", "Y") == name
