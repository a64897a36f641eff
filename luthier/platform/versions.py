"""How a version of a model is named, and which version answers a request. Pure.

`NAME` is what the name means now, `NAME@3` and `NAME@V3` a version, `NAME@PROD` what an alias stands for. In a name in
double quotes an @ is a letter as any other.
"""

import re
from hashlib import blake2b
from typing import NamedTuple

from luthier.errors import InvalidInput
from luthier.platform.models import ModelVersion, Serving
from luthier.platform.names import QualifiedName, fold, parse_name

Wanted = int | str | None
"""A version's number, an alias by its folded key, or None: what the name means now."""
SYSTEM_ALIASES = ("DEFAULT", "FIRST", "LAST")
"""Snowflake's; they are always there."""

_AT = re.compile(r'((?:[^"@]|"[^"]*")*)@(.*)', re.DOTALL)
_NUMBER = re.compile(r"[vV]?(\d{1,9})", re.ASCII)


class ModelName(NamedTuple):
    name: QualifiedName
    version: Wanted = None

    def __str__(self) -> str:
        return f"{self.name}" if self.version is None else f"{self.name}@{self.version}"


def parse_model(text: str, default_database: str, default_schema: str) -> ModelName:
    """A model's name with or without a version behind an @."""
    found = _AT.fullmatch(text)
    name = parse_name(found[1] if found else text, default_database, default_schema)
    return ModelName(name, parse_version(found[2]) if found else None)


def parse_version(text: str) -> int | str:
    """`3`, `V3` or an alias."""
    number = _NUMBER.fullmatch(text.strip())
    return int(number[1]) if number else fold(text.strip())


def parse_alias(text: str) -> str:
    """The key of an alias that may be given; InvalidInput for one that means something already."""
    key = fold(text.strip())
    if key in SYSTEM_ALIASES or _NUMBER.fullmatch(key):
        raise InvalidInput(f"The alias {text} is taken: numbers, V1, V2, ... and {', '.join(SYSTEM_ALIASES)} are.")
    return key


def pick(serving: Serving, request_id: str, base_model: str | None = None) -> ModelVersion:
    """The version that answers a request. All who ask with the same id are told the same.

    `base_model` is the one whose engine the request has reached: of the versions that the name has meant lately one
    that stands on it answers, so that nobody fails by a change of the base model.
    """
    is_canary = serving.canary is not None and _draw(request_id) < serving.share
    chosen = serving.canary if is_canary and serving.canary else serving.default
    if base_model in (None, chosen.base_model):
        return chosen
    others = (serving.default, serving.canary, *serving.lately)
    return next((each for each in others if each and each.base_model == base_model), chosen)


def _draw(request_id: str) -> float:
    """0 to 100, evenly; 100 without an id, which no share reaches."""
    if not request_id:
        return 100.0
    return int.from_bytes(blake2b(request_id.encode(), digest_size=4).digest()) / 2**32 * 100
