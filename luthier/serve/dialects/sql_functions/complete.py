"""SNOWFLAKE.CORTEX.COMPLETE and TRY_COMPLETE: a prompt gives text, a history with options the whole answer as JSON."""

import json
from typing import Any

from luthier.errors import InvalidInput, LuthierError
from luthier.serve.dialects.cortex_rules import ResponseFormat, check_turns, in_their_words
from luthier.serve.dialects.sql_functions.arguments import ModelParameters, details, read_object
from luthier.serve.dialects.sql_functions.rows import Completing, Completion, Row, Statement, as_text


class CompleteOptions(ModelParameters):
    response_format: ResponseFormat | None = None


def complete(statement: Statement) -> Completing:
    return Completing(statement, "COMPLETE", _asked, _raised)


def try_complete(statement: Statement) -> Completing:
    return Completing(statement, "COMPLETE", _asked, lambda _row, _error: None)


def _asked(row: Row) -> Completion | None:
    model, prompt = as_text(row[0]), row[1]
    if model is None or prompt is None:
        return None
    if len(row) == 2:
        if isinstance(prompt, list | dict):
            raise InvalidInput("COMPLETE: with a history it takes options too, {} at least.")
        request = ModelParameters().request(model, _messages(prompt), None)
        return Completion(request, lambda answer: answer.choices[0].text)
    options = read_object(CompleteOptions, row[2])
    request = options.request(model, _messages(prompt), options.response_format)
    return Completion(request, lambda answer: json.dumps(details(model, answer, bool(options.response_format))))


def _raised(_row: Row, error: LuthierError) -> str:
    raise type(error)(in_their_words(error, error.message)) from error


def _messages(prompt: Any) -> list[dict[str, str]]:
    """A history of {role, content}, or text, which is the user's."""
    if (text := as_text(prompt)) is not None:
        return [{"role": "user", "content": text}]
    if not isinstance(prompt, list) or not all(map(_is_turn, prompt)):
        raise InvalidInput("COMPLETE: each element of the history is {'role': ..., 'content': ...}.")
    check_turns([turn["role"] for turn in prompt])
    return prompt


def _is_turn(turn: Any) -> bool:
    is_pair = isinstance(turn, dict) and set(turn) == {"role", "content"} and isinstance(turn["content"], str)
    return is_pair and turn["role"] in ("system", "user", "assistant")
