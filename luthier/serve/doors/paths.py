"""A name of SQL in a path. Slashes may stand in its quotes alone, so that what follows a name is never taken for it."""

from typing import Annotated

from pydantic import AfterValidator
from starlette.convertors import PathConvertor, register_url_convertor

from luthier.platform.securables import role_key, user_key

NAME = "{name:object}"
Key = Annotated[str, AfterValidator(role_key)]
"""A role, a share or a database by its name as written: what it is kept under."""
UserKey = Annotated[str, AfterValidator(user_key)]


class ObjectName(PathConvertor):
    regex = r'(?=[^/])[^"/]*(?:"[^"]*"[^"/]*)*'


register_url_convertor("object", ObjectName())
