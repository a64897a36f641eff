"""Webhooks, as methods of the Python client."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.cli.objects import Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client

WEBHOOKS = "/luthier/v1/webhooks"


class Webhooks:
    """Where the account's notices are sent."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def list(self) -> Rows:
        rows: Rows = self._client.call("GET", WEBHOOKS)["webhooks"]
        return rows

    def add(self, url: str, types: Sequence[str] | None = None) -> dict[str, Any]:
        """With its `secret`, which is shown this once. `types` of notices; None: all."""
        body = {"url": url, "types": None if types is None else [*types]}
        added: dict[str, Any] = self._client.call("POST", WEBHOOKS, json=body)
        return added

    def remove(self, webhook_id: str) -> dict[str, Any]:
        removed: dict[str, Any] = self._client.call("DELETE", f"{WEBHOOKS}/{quoted(webhook_id)}")
        return removed

    def test(self, webhook_id: str) -> dict[str, Any]:
        """Sends a notice to it alone; `notices` tells whether it came."""
        notice: dict[str, Any] = self._client.call("POST", f"{WEBHOOKS}/{quoted(webhook_id)}/test")
        return notice

    def notices(self, limit: int = 100) -> Rows:
        """Newest first, and how far each has come on its way to each webhook."""
        rows: Rows = self._client.call("GET", f"{WEBHOOKS}/notices", params={"limit": limit})["notices"]
        return rows
