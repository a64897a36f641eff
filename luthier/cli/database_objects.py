"""Databases and schemas, as the Python client has them."""

from typing import TYPE_CHECKING

from luthier.cli.objects import Row, Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client


class Places:
    """`kind` is databases or schemas. A schema's name is `database.schema`, or is looked for in the default one."""

    def __init__(self, client: "Client", kind: str) -> None:
        self._client, self._kind = client, kind

    def create(self, name: str, comment: str = "") -> Row:
        row: Row = self._client.call("POST", f"/luthier/v1/{self._kind}", json={"name": name, "comment": comment})
        return row

    def list(self, database: str | None = None) -> Rows:
        """Schemas of all databases, or of one."""
        params = {} if database is None else {"database": database}
        rows: Rows = self._client.call("GET", f"/luthier/v1/{self._kind}", params=params)[self._kind]
        return rows

    def drop(self, name: str, cascade: bool = False) -> Row:
        """`cascade`: with the tables and models in it."""
        path = f"/luthier/v1/{self._kind}/{quoted(name)}"
        row: Row = self._client.call("DELETE", path, params={"cascade": cascade})
        return row
