"""What is wrong with a body, in the words that users of OpenAI's clients know."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from luthier.errors import (
    InvalidInput,
    InvalidSchema,
    InvalidValue,
    LuthierError,
    UnknownParameter,
    UnsupportedParameter,
)

Read = TypeVar("Read", bound=BaseModel)

UNSUPPORTED = {
    "audio": "answers are text",
    "function_call": "use 'tool_choice'",
    "functions": "use 'tools'",
    "modalities": "answers are text",
    "moderation": "nothing is moderated here",
    "prediction": "every token is generated",
    "prompt_cache_options": "prompts are cached by themselves",
    "prompt_cache_retention": "prompts are cached by themselves",
    "reasoning_effort": "models think as their chat template tells them",
    "service_tier": "there is one tier; 'auto' and 'default' mean it",
    "store": "nothing of a completion is stored",
    "suffix": "nothing is inserted before a suffix",
    "verbosity": "say in a message how long the answer may be",
    "web_search_options": "nothing is searched here",
}
"""Parameters of OpenAI's that are not done, in whole or but for what means nothing, and why."""

OF_ANSWERS = ("refusal", "audio", "function_call", "annotations")
"""Fields of the official client's messages that are empty in what we answered."""
NAMES = {
    "string": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "list": "an array",
    "dict": "an object",
    "model": "an object",
    "none": "null",
}
LIMITS = {
    "greater_than": ("below minimum value", "> {gt}"),
    "greater_than_equal": ("below minimum value", ">= {ge}"),
    "less_than": ("above maximum value", "< {lt}"),
    "less_than_equal": ("above maximum value", "<= {le}"),
}


def invalid(param: str, reason: str) -> InvalidValue:
    return InvalidValue(f"Invalid '{param}': {reason}.", param=param)


def invalid_schema(param: str, reason: str) -> InvalidSchema:
    return InvalidSchema(f"Invalid '{param}': {reason}.", param=param)


def missing(param: str) -> InvalidValue:
    return InvalidValue(f"Missing required parameter: '{param}'.", param=param)


def read_body(kind: type[Read], body: bytes) -> Read:
    """What the body says; its first fault is refused."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        fault = error
    if fault.errors()[0]["type"] == "json_invalid":
        raise InvalidInput(f"The request body is not valid JSON: {fault.errors()[0]['ctx']['error']}.") from fault
    said = json.loads(body)
    if not isinstance(said, dict):
        raise InvalidInput("The request body is not a JSON object.") from fault
    meant = _without_nothings(said)
    try:
        return kind.model_validate_json(json.dumps(meant))
    except ValidationError as error:
        raise _refused(_worst(error.errors()), meant) from error


def _without_nothings(body: dict[str, Any]) -> dict[str, Any]:
    """A null stands for a parameter that is not given, and answers come back as messages with all of their fields."""
    said = {key: value for key, value in body.items() if value is not None or key not in UNSUPPORTED}
    if isinstance(messages := said.get("messages"), list):
        said["messages"] = [
            {key: value for key, value in message.items() if value or key not in OF_ANSWERS}
            if isinstance(message, dict)
            else message
            for message in messages
        ]
    return said


def _worst(faults: list[ErrorDetails]) -> ErrorDetails:
    """The first; of the arms of a union the one that came furthest, for that was meant."""
    rivals = [fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]]
    return max(rivals, key=lambda fault: (not fault["type"].endswith(("_type", "_parsing")), len(fault["loc"])))


def _refused(fault: ErrorDetails, body: Any) -> LuthierError:
    name, kind, given, more = str(fault["loc"][0]), fault["type"], fault["input"], fault.get("ctx", {})
    if name in UNSUPPORTED:
        return UnsupportedParameter(f"Unsupported parameter: '{name}': {UNSUPPORTED[name]}.", param=name)
    param = _param(fault, body)
    if kind == "extra_forbidden":
        return UnknownParameter(f"Unknown parameter: '{param}'.", param=param)
    if kind == "missing":
        return missing(param)
    if kind in ("literal_error", "union_tag_invalid"):
        expected = more.get("expected") or more["expected_tags"]
        if kind == "union_tag_invalid":
            param, given = f"{param}.type", more["tag"]
        return InvalidValue(f"Invalid value: {_shown(given)}. Supported values are: {expected}.", param=param)
    if kind in LIMITS:
        number = "integer" if isinstance(given, int) else "decimal"
        words, limit = LIMITS[kind]
        limit = limit.format(**more)
        return invalid(param, f"{number} {words}. Expected a value {limit}, but got {_shown(given)} instead")
    if kind.endswith(("too_long", "too_short")):
        return invalid(param, _length(fault))
    if kind.endswith(("_type", "_parsing", "_from_float")):
        expected = NAMES.get(kind.split("_")[0], fault["msg"])
        message = f"Invalid type for '{param}': expected {expected}, but got {_shown(given)} instead."
        return InvalidValue(message, param=param)
    return invalid(param, fault["msg"].removeprefix("Value error, "))


def _length(fault: ErrorDetails) -> str:
    kind, more, given = fault["type"], fault["ctx"], fault["input"]
    what = "string" if kind.startswith("string") else "array" if isinstance(given, list) else "object"
    word, limit = ("long", "maximum") if kind.endswith("long") else ("short", "minimum")
    length = f"{limit} length {more.get(f'{limit[:3]}_length')}"
    article = "an" if what in ("array", "object") else "a"
    return (
        f"{what} too {word}. Expected {article} {what} with {length}, "
        f"but got {article} {what} with length {len(given)} instead"
    )


def _param(fault: ErrorDetails, body: Any) -> str:
    """`messages[0].role`. pydantic's names for the arms of a union are no keys."""
    place, at = "", body
    *parents, last = fault["loc"]
    for part in (*parents, last):
        if isinstance(at, dict) and (part in at or (part == last and fault["type"] == "missing")):
            place, at = f"{place}.{part}" if place else str(part), at.get(part)
        elif isinstance(at, list) and isinstance(part, int):
            place, at = f"{place}[{part}]", at[part]
    return place


def _shown(value: Any) -> str:
    """A value as JSON, or its kind when it is long."""
    text = json.dumps(value)
    if len(text) <= 40 and not isinstance(value, list | dict):
        return text
    names = ((str, "a string"), (list, "an array"), (dict, "an object"))
    return next((name for kind, name in names if isinstance(value, kind)), "a long number")
