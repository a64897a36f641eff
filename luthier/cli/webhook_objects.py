"""Webhooks, as methods of the Python client."""

from collections.abc import Sequence

from luthier.cli.remote import Remote, Row, Rows, path_of


class Webhooks(Remote):
    """Where the account's notices are sent."""

    def list(self) -> Rows:
        return self._client.pages(path_of("webhooks"), "webhooks")

    def add(self, url: str, types: Sequence[str] | None = None) -> Row:
        """With its `secret`, which is shown this once. `types` of notices; None: all."""
        body = {"url": url, "types": None if types is None else [*types]}
        return self._client.call("POST", path_of("webhooks"), json=body)

    def remove(self, webhook_id: str) -> Row:
        return self._client.call("DELETE", path_of("webhooks", webhook_id))

    def test(self, webhook_id: str) -> Row:
        """Sends a notice to it alone; `notices` tells whether it came."""
        return self._client.call("POST", path_of("webhooks", webhook_id, "test"))

    def notices(self, limit: int = 100) -> Rows:
        """Newest first, and how far each has come on its way to each webhook."""
        rows: Rows = self._client.call("GET", path_of("webhooks", "notices"), params={"limit": limit})["notices"]
        return rows
