"""Shares, as the Python client has them: what others may ask of an account, and what it may ask of theirs."""

from collections.abc import Sequence
from typing import Any

from luthier.cli.remote import Remote, Row, Rows, given, path_of


class Shares(Remote):
    def create(self, name: str, comment: str = "") -> Row:
        """It gives nothing yet, and to nobody."""
        return self._client.call("POST", path_of("shares"), json={"name": name, "comment": comment})

    def list(self) -> Rows:
        """Those of one's own account (OUTBOUND), and of others that are open to it (INBOUND)."""
        return self._client.pages(path_of("shares"), "shares")

    def describe(self, name: str, provider: str | None = None) -> Rows:
        """What it gives. `provider` is the account whose share it is; without it one's own is meant."""
        return self._client.pages(path_of("shares", name), "objects", **given(provider=provider))

    def drop(self, name: str) -> Row:
        return self._client.call("DELETE", path_of("shares", name))

    def grant(self, name: str, kind: str, object_name: str, scope: str = "ONE") -> int:
        """USAGE on a DATABASE, a SCHEMA or a MODEL; with the scope ALL on all models of a schema."""
        return self._change(name, "grant", kind, object_name, scope)

    def revoke(self, name: str, kind: str, object_name: str, scope: str = "ONE") -> int:
        """Of a database with all that is in it."""
        return self._change(name, "revoke", kind, object_name, scope)

    def grants(self, name: str) -> Rows:
        return self._client.pages(path_of("shares", name, "grants"), "grants")

    def accounts(self, name: str) -> Rows:
        """To whom it is open."""
        return self._client.pages(path_of("shares", name, "accounts"), "accounts")

    def add_accounts(self, name: str, accounts: Sequence[str]) -> Any:
        """All that it is open to then."""
        return self._client.call("POST", path_of("shares", name, "accounts"), json={"accounts": [*accounts]})["to"]

    def set_accounts(self, name: str, accounts: Sequence[str]) -> Any:
        """These, and no others."""
        return self._client.call("PUT", path_of("shares", name, "accounts"), json={"accounts": [*accounts]})["to"]

    def remove_account(self, name: str, account: str) -> Any:
        return self._client.call("DELETE", path_of("shares", name, "accounts", account))["to"]

    def use(self, provider: str, name: str, database: str) -> Row:
        """Makes a database of another account's share: CREATE DATABASE ... FROM SHARE."""
        body = {"provider": provider, "share": name}
        return self._client.call("PUT", path_of("shared-databases", database), json=body)

    def drop_database(self, database: str) -> Row:
        return self._client.call("DELETE", path_of("shared-databases", database))

    def _change(self, name: str, verb: str, kind: str, object_name: str, scope: str) -> int:
        body = {"privileges": ["USAGE"], "kind": kind, "name": object_name, "scope": scope}
        num: int = self._client.call("POST", path_of("shares", name, verb), json=body)["objects"]
        return num
