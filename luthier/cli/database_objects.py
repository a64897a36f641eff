"""Databases and schemas, as the Python client has them."""

from luthier.cli.remote import RemoteKind, Row, Rows, given, path_of


class Places(RemoteKind):
    """Databases, or schemas. A schema's name is `database.schema`, or is looked for in the default one."""

    def create(self, name: str, comment: str = "") -> Row:
        return self._client.call("POST", path_of(self._kind), json={"name": name, "comment": comment})

    def list(self, database: str | None = None) -> Rows:
        """Schemas of all databases, or of one."""
        return self._client.pages(path_of(self._kind), self._kind, **given(database=database))

    def drop(self, name: str, cascade: bool = False) -> Row:
        """`cascade`: with the tables and models in it."""
        return self._client.call("DELETE", path_of(self._kind, name), params={"cascade": cascade})
