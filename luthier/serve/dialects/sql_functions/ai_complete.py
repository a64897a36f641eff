"""AI_COMPLETE(model, prompt [, model_parameters, response_format, show_details, return_error_details]).

A row that fails is NULL, or {value, error} where that is asked for: the others go on.
"""

import json
import re
from typing import Any, NamedTuple

from luthier.errors import InvalidInput, LuthierError
from luthier.platform.wire import Chunk
from luthier.serve.dialects.cortex_rules import ResponseFormat, in_their_words, structured
from luthier.serve.dialects.sql_functions.arguments import ModelParameters, details, read_object
from luthier.serve.dialects.sql_functions.rows import Completing, Completion, Row, Statement, as_text

PARAMETERS = ("model", "prompt", "model_parameters", "response_format", "show_details", "return_error_details")


class Arguments(NamedTuple):
    model: str | None
    prompt: Any
    model_parameters: Any
    response_format: Any
    show_details: Any
    return_error_details: Any


def ai_complete(statement: Statement) -> Completing:
    return Completing(statement, "AI_COMPLETE", _asked, _failed)


def _asked(row: Row) -> Completion | None:
    given = Arguments(as_text(row[0]), *row[1:])
    if given.model is None or given.prompt is None:
        return None
    shape = None if given.response_format is None else read_object(ResponseFormat, given.response_format)
    messages = [{"role": "user", "content": _text(given.prompt)}]
    request = read_object(ModelParameters, given.model_parameters).request(given.model, messages, shape)

    def value(answer: Chunk) -> str:
        return _shown(given, _said(given, answer, shape is not None))

    return Completion(request, value)


def _failed(row: Row, error: LuthierError) -> str | None:
    if not Arguments(*row).return_error_details:
        return None
    return json.dumps({"value": None, "error": in_their_words(error, error.message)})


def _said(given: Arguments, answer: Chunk, is_structured: bool) -> Any:
    if given.show_details:
        return details(str(given.model), answer, is_structured)
    choice = answer.choices[0]
    return structured(choice.text, choice.finish_reason) if is_structured else choice.text


def _shown(given: Arguments, said: Any) -> str:
    if given.return_error_details:
        return json.dumps({"value": said, "error": None})
    return said if isinstance(said, str) else json.dumps(said)


def _text(prompt: Any) -> str:
    """A text, or what PROMPT(template, ...) made, with each {0}, {1}, ... filled in."""
    if (text := as_text(prompt)) is not None:
        return text
    if not isinstance(prompt, dict) or set(prompt) != {"template", "args"} or not isinstance(prompt["template"], str):
        raise InvalidInput("invalid prompt object: a text is wanted, or PROMPT('... {0} ...', value).")
    values = prompt["args"]

    def filled(place: re.Match[str]) -> str:
        number = int(place[1])
        value = as_text(values[number]) if number < len(values) else None
        if value is None:
            raise InvalidInput(f"invalid prompt object: {place[0]} has no text or number to stand for it.")
        return value

    return re.sub(r"\{(\d+)\}", filled, prompt["template"])
