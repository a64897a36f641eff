"""COUNT_TOKENS(model, text) and AI_COUNT_TOKENS('ai_complete', model, text [, options] [, return_error_details]).

By the base model's own tokenizer. What AI_COUNT_TOKENS cannot count is NULL, or {value, error} where that is asked for.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from luthier.errors import InvalidInput, LuthierError
from luthier.platform.base_models import base_model_dir
from luthier.platform.data.prompts import load_prompts
from luthier.serve.dialects.cortex_rules import ResponseFormat, in_their_words
from luthier.serve.dialects.sql_functions.arguments import ModelParameters, read_object
from luthier.serve.dialects.sql_functions.rows import Row, as_text
from luthier.serve.services import Services

AI_ARITIES = range(2, 6)


class Arguments(NamedTuple):
    model: str | None
    text: str | None
    options: Any = None


def count_tokens(services: Services) -> Callable[[Row], str | None]:
    def count(row: Row) -> str | None:
        try:
            return _as_sql(_num_tokens(services, Arguments(*map(as_text, row))))
        except LuthierError as error:
            raise type(error)(in_their_words(error, error.message)) from error

    return count


def ai_count_tokens(services: Services) -> Callable[[Row], str | None]:
    """A number."""

    def count(row: Row) -> str | None:
        given, wants_details = _read(row)
        if wants_details:
            raise InvalidInput("AI_COUNT_TOKENS: return_error_details is TRUE or FALSE, as it is written.")
        try:
            return _as_sql(_num_tokens(services, given))
        except LuthierError:
            return None

    return count


def ai_count_tokens_detailed(services: Services) -> Callable[[Row], str]:
    """With return_error_details: an object."""

    def count(row: Row) -> str:
        given, _ = _read(row)
        try:
            return json.dumps({"value": _num_tokens(services, given), "error": None})
        except LuthierError as error:
            return json.dumps({"value": None, "error": in_their_words(error, error.message)})

    return count


def _read(row: Row) -> tuple[Arguments, bool]:
    """What is counted, and return_error_details. Raises what is wrong with the statement, whatever its rows hold."""
    function, *rest = row
    if function != "ai_complete":
        raise InvalidInput(f"AI_COUNT_TOKENS: {function!r} is not counted here; 'ai_complete' is.")
    wants_details = rest.pop() if isinstance(rest[-1], bool) else False
    if len(rest) not in (2, 3):
        raise InvalidInput("AI_COUNT_TOKENS: 'ai_complete' takes a model, a text, and options if there are any.")
    return Arguments(as_text(rest[0]), as_text(rest[1]), *rest[2:]), wants_details


def _num_tokens(services: Services, given: Arguments) -> int | None:
    """Options are looked at, and add nothing: the engine follows a schema without being told in words."""
    is_format = isinstance(given.options, dict) and "type" in given.options
    read_object(ResponseFormat if is_format else ModelParameters, given.options)
    if given.model is None or given.text is None:
        return None
    base = services.catalog.get(given.model)
    return len(load_prompts(base_model_dir(services.settings, base)).encode(given.text))


def _as_sql(number: int | None) -> str | None:
    return None if number is None else str(number)
