"""Every fault of a row, by the reason that its owner reads."""

import json
from typing import Any

import pytest

from luthier.platform.data.row_checks import fault_of, messages_of

USER, ASSISTANT = {"role": "user", "content": "what?"}, {"role": "assistant", "content": "42"}
SYSTEM = {"role": "system", "content": "be brief"}


def chat(*messages: Any) -> dict[str, str]:
    return {"messages": json.dumps(list(messages))}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b"},
        {"text": "a"},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "chosen": "b", "rejected": ""},
        chat(USER, ASSISTANT),
        chat(SYSTEM, USER, ASSISTANT),
        chat({"role": "system", "content": ""}, USER, ASSISTANT),
        chat(USER, ASSISTANT, USER, ASSISTANT),
        chat({**USER, "name": None}, ASSISTANT),
        {"messages": '[{"role": "user", "content": "\\u00e9"}, {"content": "b", "role": "assistant"}]'},
    ],
    ids=str,
)
def test_good_rows(row: dict[str, str]) -> None:
    assert fault_of(row) is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": None, "completion": "b"}, "prompt is NULL"),
        ({"prompt": "a", "completion": None}, "completion is NULL"),
        ({"prompt": " \n", "completion": "b"}, "prompt is empty"),
        ({"prompt": "a", "completion": ""}, "completion is empty"),
        ({"text": ""}, "text is empty"),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, "chosen is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected is NULL"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same"),
        ({"messages": None}, "messages is NULL"),
        ({"messages": ""}, "messages is empty"),
        ({"messages": "hello"}, "messages is not JSON"),
        ({"messages": "[" * 100_000}, "messages is not JSON"),
        ({"messages": "{}"}, "messages is an object, not a list"),
        ({"messages": '"hello"'}, "messages is text, not a list"),
        ({"messages": "3"}, "messages is a number, not a list"),
        ({"messages": "null"}, "messages is null, not a list"),
        (chat(), "messages needs a user and an assistant, at least"),
        (chat(USER), "messages needs a user and an assistant, at least"),
        (chat(ASSISTANT), "messages needs a user and an assistant, at least"),
        (chat(SYSTEM, USER), "messages needs a user and an assistant, at least"),
        (chat("hello", ASSISTANT), "a message is text, not an object"),
        (chat(USER, [ASSISTANT]), "a message is a list, not an object"),
        (chat(USER, {"role": "assistant"}), "a message has the keys role, not role and content"),
        (chat(USER, {**ASSISTANT, "content": None}), "a message has the keys role, not role and content"),
        (chat({**USER, "name": "Ann"}, ASSISTANT), "a message has the keys content, name, role, not role and content"),
        (chat(USER, {}), "a message has the keys none, not role and content"),
        (chat({**USER, "role": "tool"}, ASSISTANT), "role 'tool' is not system, user or assistant"),
        (chat({**USER, "role": "User"}, ASSISTANT), "role 'User' is not system, user or assistant"),
        (chat({**USER, "role": ["user"]}, ASSISTANT), "role \"['user']\" is not system, user or assistant"),
        (chat({**USER, "content": 3}, ASSISTANT), "the content of a message is a number, not text"),
        (chat({**USER, "content": [{"text": "a"}]}, ASSISTANT), "the content of a message is a list, not text"),
        (chat({**USER, "content": True}, ASSISTANT), "the content of a message is a boolean, not text"),
        (chat({**USER, "content": " "}, ASSISTANT), "the content of a message of the user is empty"),
        (chat(USER, {**ASSISTANT, "content": ""}), "the content of a message of the assistant is empty"),
        (chat(USER, ASSISTANT, USER), "the last role is user, not assistant"),
        (chat(USER, USER, ASSISTANT), "the same role speaks twice in a row"),
        (chat(USER, ASSISTANT, ASSISTANT), "the same role speaks twice in a row"),
        (chat(ASSISTANT, USER, ASSISTANT), "the assistant speaks first"),
        (chat(SYSTEM, ASSISTANT), "the assistant speaks first"),
        (chat(USER, SYSTEM, ASSISTANT), "a system message stands elsewhere than first"),
        (chat(SYSTEM, SYSTEM, USER, ASSISTANT), "a system message stands elsewhere than first"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_faults(row: dict[str, str | None], reason: str) -> None:
    assert fault_of(row) == reason


def test_reasons_stay_short() -> None:
    """They are the keys of a report: a value of a megabyte must not become one."""
    for row in (chat({**USER, "role": "x" * 10**6}, ASSISTANT), chat({**USER, "k" * 10**6: 1}, ASSISTANT)):
        assert len(fault_of(row) or "") < 200


def test_keys_that_are_null_are_left_out() -> None:
    """A table of objects has every row's keys in every row."""
    assert messages_of('[{"role": "user", "content": "a", "name": null}]') == [{"role": "user", "content": "a"}]
