"""Keys and the audit, as the Python client has them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.cli.objects import Row, Rows, quoted

if TYPE_CHECKING:
    from luthier.cli.client import Client

KEYS, AUDIT = "/luthier/v1/keys", "/luthier/v1/audit"


class Keys:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(
        self,
        name: str = "",
        endpoints: Sequence[str] = (),
        models: Sequence[str] = (),
        read_only: bool = False,
        **given: Any,
    ) -> Row:
        """The new key; its secret is in the answer's `key`, and nowhere else.

        `given`: user, role, expires_in_s. Without endpoints or models the key is for all of them.
        """
        body = {"name": name, "endpoints": list(endpoints), "models": list(models), "read_only": read_only}
        wanted = {key: value for key, value in given.items() if value is not None}
        key: Row = self._client.call("POST", KEYS, json={**body, **wanted})
        return key

    def list(self) -> Rows:
        return self._client.pages(KEYS, "keys")

    def revoke(self, key_id: str) -> Row:
        key: Row = self._client.call("DELETE", f"{KEYS}/{quoted(key_id)}")
        return key

    def rotate(self, key_id: str, grace_s: int | None = None, expires_in_s: int | None = None) -> Row:
        """The new key, with its secret; the old one works on for the grace (24 hours unless told)."""
        given = {"grace_s": grace_s, "expires_in_s": expires_in_s}
        body = {name: value for name, value in given.items() if value is not None}
        key: Row = self._client.call("POST", f"{KEYS}/{quoted(key_id)}/rotate", json=body)
        return key


class Audit:
    def __init__(self, client: "Client") -> None:
        self._client = client

    def list(self, limit: int = 100, unknown: bool = False, **given: Any) -> Rows:
        """Newest first, page by page. `given`: since and until (epoch milliseconds), user, action.

        `unknown`: refusals of callers whose key nobody knows.
        """
        wanted = {name: value for name, value in given.items() if value is not None}
        found: Rows = []
        before: int | None = None
        while len(found) < limit:
            page = {"limit": min(limit - len(found), 1000), **({"before": before} if before else {})}
            answer = self._client.call("GET", AUDIT, params={**wanted, "unknown": unknown, **page})
            found += answer["audit"]
            before = answer["next"]
            if before is None:
                break
        return found

    def verify(self, anchor: str | None = None, unknown: bool = False) -> Row:
        """Whether the chain is whole; `anchor` is what an earlier one answered."""
        params = {"unknown": unknown, **({"anchor": anchor} if anchor else {})}
        verdict: Row = self._client.call("GET", f"{AUDIT}/verify", params=params)
        return verdict
