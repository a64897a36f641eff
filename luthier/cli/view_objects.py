"""Views, as the Python client has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.cli.objects import Row, Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client

PATH = "/luthier/v1/views"


class Views:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(
        self,
        name: str,
        query: str,
        *,
        columns: Sequence[str] | None = None,
        comment: str = "",
        is_secure: bool = False,
        replace: bool = False,
    ) -> Row:
        """A query that others may read without what it reads: it is run with the rights of the role that made it.

        `columns` are what its columns are called in the view. With `is_secure` nobody else sees the query.
        """
        body = {"name": name, "query": query, "columns": columns, "comment": comment, "is_secure": is_secure}
        body["if_there"] = "replace" if replace else "refuse"
        row: Row = self._client.call("POST", PATH, json=body)
        return row

    def list(self) -> Rows:
        """All that may be read, by name."""
        views: Rows = []
        page = self._client.call("GET", PATH)
        views += page["views"]
        while "next" in page:
            page = self._client.call("GET", PATH, params={"after": page["next"]})
            views += page["views"]
        return views

    def drop(self, name: str) -> Row:
        """What it reads stays."""
        row: Row = self._client.call("DELETE", f"{PATH}/{quoted(name)}")
        return row
