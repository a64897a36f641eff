"""Credits and rate limits, as methods of the Python client."""

import uuid

from luthier.cli.remote import Remote, Row, Rows, given, path_of


class Credits(Remote):
    """Amounts are decimal credits as text: no float ever touches money."""

    def balance(self, account: str | None = None) -> Row:
        """What the account has; nothing but `is_limited` while it has no limit."""
        return self._client.call("GET", path_of("credits"), params=given(account=account))

    def top_up(self, credits: str, account: str | None = None, note: str = "", key: str | None = None) -> Row:
        """Adds credits, such as "12.5", once for each key."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        body = {"credits": str(credits), "note": note, **given(account=account)}
        return self._client.call("POST", path_of("credits", "topups"), json=body, headers=headers)

    def topups(self, account: str | None = None) -> Rows:
        return self._client.pages(path_of("credits", "topups"), "topups", **given(account=account))

    def limit(self, account: str | None = None) -> Row:
        """The account spends no more than its balance from now on."""
        return self._client.call("PUT", path_of("credits", "limit"), json=given(account=account))

    def alert(self, credits: str | None) -> Row:
        """Less than this left is told to the account's webhooks; None: nothing is."""
        body = {"credits": None if credits is None else str(credits)}
        return self._client.call("PUT", path_of("credits", "alert"), json=body)

    def budgets(self) -> Rows:
        """Of the account's roles, users and keys."""
        return self._client.pages(path_of("credits", "budgets"), "budgets")

    def set_budget(self, kind: str, name: str, credits: str, period: str = "none", is_hard: bool = True) -> Row:
        """What a role, user or key (its id) may spend, in all or in each `day` or `month` (UTC)."""
        body = {"credits": str(credits), "period": period, "is_hard": is_hard}
        return self._client.call("PUT", path_of("credits", "budgets", kind, name), json=body)

    def drop_budget(self, kind: str, name: str) -> Row:
        return self._client.call("DELETE", path_of("credits", "budgets", kind, name))


class Limits(Remote):
    """Rate limits: requests and tokens per minute of a key (by its id), a model, or a key on a model."""

    def list(self) -> Rows:
        return self._client.pages(path_of("limits"), "limits")

    def set(
        self,
        key: str | None = None,
        model: str | None = None,
        requests: int | None = None,
        tokens: int | None = None,
    ) -> Row:
        """In the place of what was set for it."""
        body = {"key": key, "model": model, "requests": requests, "tokens": tokens}
        return self._client.call("PUT", path_of("limits"), json=body)

    def unset(self, key: str | None = None, model: str | None = None) -> Row:
        return self._client.call("DELETE", path_of("limits"), params=given(key=key, model=model))
