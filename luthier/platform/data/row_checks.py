"""What is wrong with a row of training data, one reason a row. The rules are those of Databricks' trainer.

Source: the data format pages of Databricks Foundation Model Fine-tuning and the checks of its open trainer.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

ROLES = ("system", "user", "assistant")
MAX_SHOWN = 80
"""Characters of a faulty value in a reason."""
OPTIONAL_BLANK = frozenset({"rejected"})
"""A rejected answer may be empty: silence is an answer that can be worse."""


def fault_of(row: Mapping[str, str | None]) -> str | None:
    """The first fault of a row, or None."""
    for name, value in row.items():
        if value is None:
            return f"{name} is NULL"
        if not value.strip() and name not in OPTIONAL_BLANK:
            return f"{name} is empty"
    if row.get("messages") is not None:
        return _conversation_fault(str(row["messages"]))
    if "chosen" in row and row["chosen"] == row["rejected"]:
        return "chosen and rejected are the same"
    return None


def messages_of(text: str) -> Any:
    """The messages in a cell; ValueError when it is no JSON. Keys that are null are those of other rows."""
    try:
        messages = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(messages, list):
        return messages
    return [_without_nulls(message) if isinstance(message, dict) else message for message in messages]


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}


def _conversation_fault(text: str) -> str | None:
    try:
        messages = messages_of(text)
    except ValueError:
        return "messages is not JSON"
    if not isinstance(messages, list):
        return f"messages is {_kind(messages)}, not a list"
    for message in messages:
        if fault := _message_fault(message):
            return fault
    return _order_fault([message["role"] for message in messages])


def _message_fault(message: Any) -> str | None:
    if not isinstance(message, dict):
        return f"a message is {_kind(message)}, not an object"
    if set(message) != {"role", "content"}:
        return f"a message has the keys {', '.join(sorted(message))[:MAX_SHOWN] or 'none'}, not role and content"
    if message["role"] not in ROLES:
        return f"role {str(message['role'])[:MAX_SHOWN]!r} is not system, user or assistant"
    if not isinstance(message["content"], str):
        return f"the content of a message is {_kind(message['content'])}, not text"
    if not message["content"].strip() and message["role"] != "system":
        return f"the content of a message of the {message['role']} is empty"
    return None


def _order_fault(roles: list[str]) -> str | None:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if len(roles) < 2 or "assistant" not in roles:
        return "messages needs a user and an assistant, at least"
    if "system" in turns:
        return "a system message stands elsewhere than first"
    if any(one == next_one for one, next_one in pairwise(turns)):
        return "the same role speaks twice in a row"
    if turns[0] != "user":
        return "the assistant speaks first"
    return None if turns[-1] == "assistant" else f"the last role is {turns[-1]}, not assistant"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
