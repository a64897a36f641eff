"""Shares, as the Python client has them: what others may ask of an account, and what it may ask of theirs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.cli.objects import Row, Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client

V1 = "/luthier/v1"


class Shares:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(self, name: str, comment: str = "") -> Row:
        """It gives nothing yet, and to nobody."""
        return self._row("POST", f"{V1}/shares", {"name": name, "comment": comment})

    def list(self) -> Rows:
        """Those of one's own account (OUTBOUND), and of others that are open to it (INBOUND)."""
        return self._rows(f"{V1}/shares", "shares")

    def describe(self, name: str, provider: str | None = None) -> Rows:
        """What it gives. `provider` is the account whose share it is; without it one's own is meant."""
        query = f"?provider={quoted(provider)}" if provider else ""
        return self._rows(f"{_path(name)}{query}", "objects")

    def drop(self, name: str) -> Row:
        return self._row("DELETE", _path(name))

    def grant(self, name: str, kind: str, object_name: str, scope: str = "ONE") -> int:
        """USAGE on a DATABASE, a SCHEMA or a MODEL; with the scope ALL on all models of a schema."""
        return self._change(name, "grant", kind, object_name, scope)

    def revoke(self, name: str, kind: str, object_name: str, scope: str = "ONE") -> int:
        """Of a database with all that is in it."""
        return self._change(name, "revoke", kind, object_name, scope)

    def grants(self, name: str) -> Rows:
        return self._rows(_path(name, "grants"), "grants")

    def accounts(self, name: str) -> Rows:
        """To whom it is open."""
        return self._rows(_path(name, "accounts"), "accounts")

    def add_accounts(self, name: str, accounts: Sequence[str]) -> Any:
        """All that it is open to then."""
        return self._row("POST", _path(name, "accounts"), {"accounts": [*accounts]})["to"]

    def set_accounts(self, name: str, accounts: Sequence[str]) -> Any:
        """These, and no others."""
        return self._row("PUT", _path(name, "accounts"), {"accounts": [*accounts]})["to"]

    def remove_account(self, name: str, account: str) -> Any:
        return self._row("DELETE", _path(name, "accounts", account))["to"]

    def use(self, provider: str, name: str, database: str) -> Row:
        """Makes a database of another account's share: CREATE DATABASE ... FROM SHARE."""
        body = {"provider": provider, "share": name}
        return self._row("PUT", f"{V1}/shared-databases/{quoted(database)}", body)

    def drop_database(self, database: str) -> Row:
        return self._row("DELETE", f"{V1}/shared-databases/{quoted(database)}")

    def _change(self, name: str, verb: str, kind: str, object_name: str, scope: str) -> int:
        body = {"privileges": ["USAGE"], "kind": kind, "name": object_name, "scope": scope}
        num: int = self._row("POST", _path(name, verb), body)["objects"]
        return num

    def _row(self, method: str, path: str, body: Row | None = None) -> Row:
        row: Row = self._client.call(method, path, **({} if body is None else {"json": body}))
        return row

    def _rows(self, path: str, name: str) -> Rows:
        rows: Rows = self._client.call("GET", path)[name]
        return rows


def _path(name: str, *parts: str) -> str:
    return "/".join([f"{V1}/shares", *map(quoted, (name, *parts))])
