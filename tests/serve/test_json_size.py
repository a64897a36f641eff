"""How much work a JSON text is, however it is cut into pieces."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.errors import TooLarge
from luthier.serve.doors.bodies import MAX_CHOICES, CompletionBody
from luthier.serve.doors.json_size import MAX_NAMES, MAX_VALUES, JsonSize

TEXT = st.text(st.sampled_from('"\\:,[]{}é\n a'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def work(said: Any) -> tuple[int, int]:
    """Names and brackets; commas."""
    if not isinstance(said, list | dict):
        return 0, 0
    inner = [work(each) for each in (said.values() if isinstance(said, dict) else said)]
    names = 1 + (len(said) if isinstance(said, dict) else 0)
    commas = max(0, len(said) - 1)
    return names + sum(each[0] for each in inner), commas + sum(each[1] for each in inner)


@given(said=JSON, cut=st.integers(1, 5), is_ascii=st.booleans())
def test_what_stands_in_strings_is_not_counted(said: Any, cut: int, is_ascii: bool) -> None:
    text = json.dumps(said, ensure_ascii=is_ascii).encode()
    size = JsonSize()
    for at in range(0, len(text), cut):
        size.add(text[at : at + cut])
    assert (size._num_names, size._num_values) == work(said)


def test_as_many_prompts_as_a_request_may_have() -> None:
    beside = {"model": "m", "max_tokens": 1, "logit_bias": dict.fromkeys(map(str, range(1024)), 1), "seed": 0}
    prompts = [[9] * 4096] * MAX_CHOICES
    body = json.dumps({**beside, "prompt": prompts}).encode()
    CompletionBody.model_validate_json(body)
    JsonSize().add(body)
    with pytest.raises(TooLarge, match="so many tokens may be sent"):
        JsonSize().add(json.dumps({**beside, "prompt": [*prompts, *prompts[:2]]}).encode())


@pytest.mark.parametrize(
    ("piece", "num"),
    [(b'{"a":1', MAX_NAMES // 2), (b"[", MAX_NAMES), (b"1,", MAX_VALUES), (b'{"role":"user","content":"a"},', 10_922)],
    ids=["objects", "arrays", "numbers", "messages"],
)
def test_so_much_and_no_more(piece: bytes, num: int) -> None:
    size = JsonSize()
    size.add(piece * num)
    with pytest.raises(TooLarge, match="The request body has more than"):
        size.add(piece)
