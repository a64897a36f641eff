"""What is wrong with a body, in the words that users of OpenAI's clients know."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

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
WANTED = {
    "string": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "list": "an array",
    "dict": "an object",
    "model": "an object",
    "none": "null",
}
GIVEN = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
"""What a value of JSON is called."""
LIMITS = {
    "greater_than": ("below", "min", ">", "gt"),
    "greater_than_equal": ("below", "min", ">=", "ge"),
    "less_than": ("above", "max", "<", "lt"),
    "less_than_equal": ("above", "max", "<=", "le"),
}


def invalid(param: str, reason: str, code: str = InvalidValue.code) -> InvalidValue:
    return InvalidValue(f"Invalid '{param}': {reason}.", param=param, code=code)


def invalid_schema(param: str, reason: str) -> InvalidSchema:
    return InvalidSchema(f"Invalid '{param}': {reason}.", param=param)


def missing(param: str) -> InvalidValue:
    return InvalidValue(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def read_body(kind: type[Read], body: bytes) -> Read:
    """What the body says; its first fault is refused."""
    try:
        return kind.model_validate_json(body)
    except ValidationError:
        return read_said(kind, parsed(body))


def read_said(kind: type[Read], said: Any) -> Read:
    """The same of a body that was parsed, as it did not fit, or may not."""
    if not isinstance(said, dict):
        raise InvalidInput("The request body is not a JSON object.")
    meant = _without_nothings(said)
    try:
        return kind.model_validate_json(json.dumps(meant))
    except ValidationError as error:
        raise _refused(_worst(error.errors(include_url=False)), meant) from error


def parsed(body: bytes) -> Any:
    """JSON as pydantic reads it: texts are Unicode, and nothing is nested too deep."""
    try:
        return from_json(body)
    except ValueError as error:
        raise InvalidInput(f"The request body is not valid JSON: {error}.") from error


def refused_field(fault: ErrorDetails, body: Any) -> LuthierError:
    """A fault that FastAPI found, in the body or beside it."""
    where, *place = fault["loc"]
    return _refused({**fault, "loc": tuple(place)}, body if where == "body" else {place[0]: fault["input"]})


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
        given = f"'{given}'" if isinstance(given, str) else _shown(given)
        supported = expected.replace(" or ", " and ")
        return InvalidValue(f"Invalid value: {given}. Supported values are: {supported}.", param=param)
    if kind in LIMITS:
        return _out_of_range(param, fault)
    if kind.endswith(("too_long", "too_short")):
        return _out_of_length(param, fault)
    if kind.endswith(("_type", "_parsing", "_from_float")):
        expected = WANTED.get(kind.split("_")[0], fault["msg"])
        message = f"Invalid type for '{param}': expected {expected}, but got {GIVEN[type(given)]} instead."
        return InvalidValue(message, param=param, code="invalid_type")
    if kind == "string_pattern_mismatch":
        wanted = f"Expected a string that matches the pattern '{more['pattern']}'"
        return invalid(param, f"string does not match pattern. {wanted}")
    return invalid(param, fault["msg"].removeprefix("Value error, "))


def _out_of_range(param: str, fault: ErrorDetails) -> InvalidValue:
    side, end, sign, key = LIMITS[fault["type"]]
    limit, given = fault["ctx"][key], _shown(fault["input"])
    kind, told = ("integer", str(limit)) if isinstance(limit, int) else ("decimal", f"{limit:g}")
    words = f"{kind} {side} {end}imum value. Expected a value {sign} {told}, but got {given} instead"
    return invalid(param, words, f"{kind}_{side}_{end}_value")


def _out_of_length(param: str, fault: ErrorDetails) -> InvalidValue:
    more, given = fault["ctx"], fault["input"]
    a_kind = GIVEN[type(given)]
    kind = a_kind.split()[1]
    if kind == "object":
        expected = f"at most {more['max_length']} properties, but got an object with {len(given)} properties instead"
        return invalid(param, f"too many properties. Expected an object with {expected}", "object_above_max_properties")
    if not given:
        expected = f"Expected {a_kind} with minimum length 1, but got an empty {kind} instead"
        return invalid(param, f"empty {kind}. {expected}", f"empty_{kind}")
    is_long = fault["type"].endswith("long")
    word, side, end = ("long", "above", "max") if is_long else ("short", "below", "min")
    expected = f"Expected {a_kind} with {end}imum length {more[f'{end}_length']}"
    got = f"but got {a_kind} with length {len(given)} instead"
    return invalid(param, f"{kind} too {word}. {expected}, {got}", f"{kind}_{side}_{end}_length")


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
    """A value as JSON, or what it is where that is long."""
    text = json.dumps(value)
    return text if len(text) <= 40 and not isinstance(value, list | dict) else GIVEN[type(value)]
