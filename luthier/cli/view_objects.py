"""Views, as the Python client has them."""

from collections.abc import Sequence

from luthier.cli.remote import Remote, Row, Rows, path_of


class Views(Remote):
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
        return self._client.call("POST", path_of("views"), json=body)

    def list(self) -> Rows:
        """All that may be read, by name."""
        return self._client.pages(path_of("views"), "views")

    def drop(self, name: str) -> Row:
        """What it reads stays."""
        return self._client.call("DELETE", path_of("views", name))
