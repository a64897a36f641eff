"""Who may do what, as the Python client has it: accounts, users, roles, grants."""

from collections.abc import Sequence

from luthier.cli.remote import Remote, RemoteKind, Row, Rows, given, path_of


class Accounts(Remote):
    def create(self, name: str) -> Row:
        """With the key of its admin, `api_key`, which is shown this once. By who runs the platform."""
        return self._client.call("POST", path_of("accounts"), json={"name": name})

    def list(self) -> Rows:
        return self._client.pages(path_of("accounts"), "accounts")

    def parameters(self) -> dict[str, str]:
        """Of one's own account."""
        parameters: dict[str, str] = self._client.call("GET", path_of("parameters"))["parameters"]
        return parameters

    def set_parameter(self, name: str, value: str | None) -> dict[str, str]:
        """None: its default again."""
        answer = self._client.call("PUT", path_of("parameters", name), json={"value": value})
        parameters: dict[str, str] = answer["parameters"]
        return parameters


class Named(RemoteKind):
    """What an account has of one kind, each by its name."""

    def list(self) -> Rows:
        return self._client.pages(path_of(self._kind), self._kind)

    def drop(self, name: str) -> Row:
        """The keys of a user are revoked; what a role owned is the caller's role's from then on."""
        return self._client.call("DELETE", path_of(self._kind, name))

    def _create(self, **body: str | None) -> Row:
        return self._client.call("POST", path_of(self._kind), json=body)


class Users(Named):
    def create(self, name: str, default_role: str | None = None, comment: str = "") -> Row:
        return self._create(name=name, default_role=default_role, comment=comment)

    def set_default_role(self, name: str, role: str | None) -> Row:
        """None: he has none."""
        return self._client.call("PUT", path_of("users", name, "default-role"), json={"role": role})


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
        return self._client.call("POST", path_of("roles", name, verb), json=member)


class Grants(Remote):
    """`kind` is ACCOUNT, DATABASE, SCHEMA, TABLE, MODEL, ROLE, USER, DATABASE ROLE or BASE MODEL; `scope` ONE, ALL or
    FUTURE: then `name` is that of a schema."""

    def grant(self, privileges: Sequence[str], kind: str, name: str, role: str, scope: str = "ONE") -> int:
        """On how many objects it is now."""
        return self._change(path_of("grants"), privileges, kind=kind, name=name, role=role, scope=scope)

    def revoke(self, privileges: Sequence[str], kind: str, name: str, role: str, scope: str = "ONE") -> int:
        return self._change(path_of("grants", "revoke"), privileges, kind=kind, name=name, role=role, scope=scope)

    def list(self, **of: str | None) -> Rows:
        """One of to_role, of_role, to_user, future_in, or kind and name; without any, the roles of one's own user."""
        return self._client.pages(path_of("grants"), "grants", **given(**of))

    def _change(self, path: str, privileges: Sequence[str], **what: str) -> int:
        num: int = self._client.call("POST", path, json={"privileges": list(privileges), **what})["objects"]
        return num
