"""A name of SQL in a path. Slashes may stand in its quotes alone, so that what follows a name is never taken for it."""

from starlette.convertors import PathConvertor, register_url_convertor

NAME = "{name:object}"


class ObjectName(PathConvertor):
    regex = r'(?=[^/])[^"/]*(?:"[^"]*"[^"/]*)*'


register_url_convertor("object", ObjectName())
