"""The base of every noun: frozen, and no unknown keys; and how one is read from a TOML file."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from luthier.errors import InvalidInput


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


Noun = TypeVar("Noun", bound=Frozen)


def read_toml(file: Path, kind: type[Noun]) -> Noun:
    """The noun in a file; a bad file is refused with its path and the faulty key."""
    try:
        return kind.model_validate(tomllib.loads(file.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{file}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{file}: {where}: {first['msg']}") from error
