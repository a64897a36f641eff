"""Calls out of the array that a grammar forces, however it is cut."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from luthier.serve.engines.tool_calls import ForcedCalls, new_id

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
MADE = st.lists(
    st.tuples(st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True), st.dictionaries(st.text(max_size=4), VALUES)),
    min_size=1,
    max_size=3,
)


def read(pieces: list[str]) -> list[tuple[str, str]]:
    """Name and arguments of each call."""
    reader, found = ForcedCalls(), dict[int, list[str]]()
    for at, piece in enumerate(pieces):
        text, calls = reader.read(piece, [], at == len(pieces) - 1)
        assert text == ""
        for call in calls:
            if call.id is not None:
                assert call.index == len(found)
                found[call.index] = [call.name or "", ""]
            found[call.index][1] += call.arguments
    return [(name, arguments) for name, arguments in found.values()]


@given(made=MADE, data=st.data(), separators=st.sampled_from([(", ", ": "), (",", ":"), (" ,\n", ": ")]))
def test_whole_and_cut_anywhere(made: list[tuple[str, dict[str, Any]]], data: Any, separators: tuple[str, str]) -> None:
    text = json.dumps([{"name": name, "parameters": each} for name, each in made], separators=separators)
    expected = [(name, json.dumps(each, separators=separators)) for name, each in made]
    assert read([text]) == expected
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    assert read([text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]) == expected
    assert read(list(text)) == expected


def test_a_text_that_ends_too_soon() -> None:
    text = '[{"name": "f", "parameters": {"a": "}'
    assert read([text]) == read(list(text)) == [("f", '{"a": "}')]
    assert read([text[:20]]) == []


def test_ids_are_those_that_every_template_takes() -> None:
    made = {new_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(each) == 9 and each.isalnum() for each in made)
