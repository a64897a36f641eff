"""Who may do what, as the Python client has it: accounts, users, roles, grants."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.cli.objects import Row, Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client

V1 = "/luthier/v1"


class Accounts:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(self, name: str) -> Row:
        """With the key of its admin, `api_key`, which is shown this once. By who runs the platform."""
        return _row(self._client.call("POST", f"{V1}/accounts", json={"name": name}))

    def list(self) -> Rows:
        return _rows(self._client.call("GET", f"{V1}/accounts"), "accounts")

    def parameters(self) -> dict[str, str]:
        """Of one's own account."""
        parameters: dict[str, str] = self._client.call("GET", f"{V1}/parameters")["parameters"]
        return parameters

    def set_parameter(self, name: str, value: str | None) -> dict[str, str]:
        """None: its default again."""
        path = f"{V1}/parameters/{quoted(name)}"
        parameters: dict[str, str] = self._client.call("PUT", path, json={"value": value})["parameters"]
        return parameters


class Named:
    """What an account has of one kind: users, roles, ..., each by its name."""

    def __init__(self, client: "Client", kind: str) -> None:
        self._client, self._kind = client, kind

    def list(self) -> Rows:
        return self._client.pages(f"{V1}/{self._kind}", self._kind)

    def drop(self, name: str) -> Row:
        """The keys of a user are revoked; what a role owned is the caller's role's from then on."""
        return _row(self._client.call("DELETE", f"{V1}/{self._kind}/{quoted(name)}"))

    def _create(self, **body: str | None) -> Row:
        return _row(self._client.call("POST", f"{V1}/{self._kind}", json=body))


class Users(Named):
    def create(self, name: str, default_role: str | None = None, comment: str = "") -> Row:
        return self._create(name=name, default_role=default_role, comment=comment)

    def set_default_role(self, name: str, role: str | None) -> Row:
        """None: he has none."""
        path = f"{V1}/users/{quoted(name)}/default-role"
        return _row(self._client.call("PUT", path, json={"role": role}))


class Roles(Named):
    def create(self, name: str, comment: str = "") -> Row:
        return self._create(name=name, comment=comment)

    def grant(self, name: str, user: str | None = None, role: str | None = None) -> Row:
        """To a user, or to another role, which then holds all that this one does."""
        return self._change(name, "grant", user, role)

    def revoke(self, name: str, user: str | None = None, role: str | None = None) -> Row:
        return self._change(name, "revoke", user, role)

    def _change(self, name: str, verb: str, user: str | None, role: str | None) -> Row:
        member = {"kind": "USER", "name": user} if role is None else {"kind": "ROLE", "name": role}
        return _row(self._client.call("POST", f"{V1}/roles/{quoted(name)}/{verb}", json=member))


class Grants:
    """`kind` is ACCOUNT, DATABASE, SCHEMA, TABLE, MODEL, ROLE, USER, DATABASE ROLE or BASE MODEL; `scope` ONE, ALL or
    FUTURE: then `name` is that of a schema."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def grant(self, privileges: Sequence[str], kind: str, name: str, role: str, scope: str = "ONE") -> int:
        """On how many objects it is now."""
        return self._change("grants", privileges, {"kind": kind, "name": name, "role": role, "scope": scope})

    def revoke(self, privileges: Sequence[str], kind: str, name: str, role: str, scope: str = "ONE") -> int:
        return self._change("grants/revoke", privileges, {"kind": kind, "name": name, "role": role, "scope": scope})

    def list(self, **of: str | None) -> Rows:
        """One of to_role, of_role, to_user, future_in, or kind and name; without any, the roles of one's own user."""
        asked = {key: value for key, value in of.items() if value is not None}
        return self._client.pages(f"{V1}/grants", "grants", **asked)

    def _change(self, path: str, privileges: Sequence[str], what: dict[str, str]) -> int:
        body = {"privileges": list(privileges), **what}
        num: int = self._client.call("POST", f"{V1}/{path}", json=body)["objects"]
        return num


def _row(answer: Any) -> Row:
    row: Row = answer
    return row


def _rows(answer: Any, name: str) -> Rows:
    rows: Rows = answer[name]
    return rows
