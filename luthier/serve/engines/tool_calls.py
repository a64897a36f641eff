"""Calls of tools in what a model writes: how they are read, and how out of the array that a grammar forced."""

import re
import secrets
import string
from collections.abc import Sequence
from typing import Any, Protocol

from luthier.platform.wire import ToolCall

START = re.compile(r'[\s\[\]},]*\{\s*"name"\s*:\s*"([A-Za-z0-9_-]+)"\s*,\s*"parameters"\s*:\s*(?=\{)')


class Calls(Protocol):
    """Reads one choice."""

    def read(self, text: str, ids: Sequence[int], is_last: bool) -> tuple[str, list[ToolCall]]:
        """Of the next piece of the text what is no call, and the calls."""


class ForcedCalls:
    """Out of [{"name": ..., "parameters": {...}}, ...], which a grammar holds the text to."""

    def __init__(self) -> None:
        self._rest = ""
        self._num_calls = 0
        self._depth = 0
        """Of open braces; none between calls."""
        self._is_quoted = self._is_escaped = False

    def read(self, text: str, ids: Sequence[int], is_last: bool) -> tuple[str, list[ToolCall]]:
        self._rest += text
        found: list[ToolCall] = []
        while self._rest:
            new: dict[str, Any] = {}
            if not self._depth:
                start = START.match(self._rest)
                if start is None:
                    break
                new = {"id": new_id(), "name": start[1]}
                self._num_calls += 1
                self._rest = self._rest[start.end() :]
            found.append(ToolCall(index=self._num_calls - 1, arguments=self._arguments(), **new))
        return "", found

    def _arguments(self) -> str:
        """What there is of an object, up to the brace that closes it."""
        end = len(self._rest)
        for at, character in enumerate(self._rest):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_quoted:
                self._is_escaped, self._is_quoted = character == "\\", character != '"'
            elif character == '"':
                self._is_quoted = True
            elif character in "{}":
                self._depth += 1 if character == "{" else -1
                if not self._depth:
                    end = at + 1
                    break
        arguments, self._rest = self._rest[:end], self._rest[end:]
        return arguments


def new_id() -> str:
    """Nine letters and digits: Mistral's templates take no other."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
