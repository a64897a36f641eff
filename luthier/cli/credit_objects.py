"""Credits and rate limits, as methods of the Python client."""

import uuid
from typing import TYPE_CHECKING, Any

from luthier.cli.objects import Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client

BUDGETS = "/luthier/v1/credits/budgets"
LIMITS = "/luthier/v1/limits"


class Credits:
    """Amounts are decimal credits as text: no float ever touches money."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def balance(self, account: str | None = None) -> dict[str, Any]:
        """What the account has; nothing but `is_limited` while it has no limit."""
        told: dict[str, Any] = self._client.call("GET", "/luthier/v1/credits", params=_of(account))
        return told

    def top_up(
        self, credits: str, account: str | None = None, note: str = "", key: str | None = None
    ) -> dict[str, Any]:
        """Adds credits, such as "12.5", once for each key."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        body = {"credits": str(credits), "note": note, **_of(account)}
        told: dict[str, Any] = self._client.call("POST", "/luthier/v1/credits/topups", json=body, headers=headers)
        return told

    def topups(self, account: str | None = None) -> Rows:
        return self._client.pages("/luthier/v1/credits/topups", "topups", **_of(account))

    def limit(self, account: str | None = None) -> dict[str, Any]:
        """The account spends no more than its balance from now on."""
        told: dict[str, Any] = self._client.call("PUT", "/luthier/v1/credits/limit", json=_of(account))
        return told

    def alert(self, credits: str | None) -> dict[str, Any]:
        """Less than this left is told to the account's webhooks; None: nothing is."""
        body = {"credits": None if credits is None else str(credits)}
        told: dict[str, Any] = self._client.call("PUT", "/luthier/v1/credits/alert", json=body)
        return told

    def budgets(self) -> Rows:
        """Of the account's roles, users and keys."""
        return self._client.pages(BUDGETS, "budgets")

    def set_budget(
        self, kind: str, name: str, credits: str, period: str = "none", is_hard: bool = True
    ) -> dict[str, Any]:
        """What a role, user or key (its id) may spend, in all or in each `day` or `month` (UTC)."""
        body = {"credits": str(credits), "period": period, "is_hard": is_hard}
        told: dict[str, Any] = self._client.call("PUT", f"{BUDGETS}/{kind}/{quoted(name)}", json=body)
        return told

    def drop_budget(self, kind: str, name: str) -> dict[str, Any]:
        told: dict[str, Any] = self._client.call("DELETE", f"{BUDGETS}/{kind}/{quoted(name)}")
        return told


class Limits:
    """Rate limits: requests and tokens per minute of a key (by its id), a model, or a key on a model."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def list(self) -> Rows:
        return self._client.pages(LIMITS, "limits")

    def set(
        self,
        key: str | None = None,
        model: str | None = None,
        requests: int | None = None,
        tokens: int | None = None,
    ) -> dict[str, Any]:
        """In the place of what was set for it."""
        body = {"key": key, "model": model, "requests": requests, "tokens": tokens}
        told: dict[str, Any] = self._client.call("PUT", LIMITS, json=body)
        return told

    def unset(self, key: str | None = None, model: str | None = None) -> dict[str, Any]:
        params = {name: value for name, value in {"key": key, "model": model}.items() if value}
        told: dict[str, Any] = self._client.call("DELETE", LIMITS, params=params)
        return told


def _of(account: str | None) -> dict[str, str]:
    return {"account": account} if account else {}
