"""Keys and the audit, as the Python client has them."""

from collections.abc import Sequence
from typing import Any

from luthier.cli.remote import Remote, Row, Rows, given, path_of


class Keys(Remote):
    def create(
        self,
        name: str = "",
        endpoints: Sequence[str] = (),
        models: Sequence[str] = (),
        read_only: bool = False,
        **more: Any,
    ) -> Row:
        """The new key; its secret is in the answer's `key`, and nowhere else.

        `more`: user, role, expires_in_s. Without endpoints or models the key is for all of them.
        """
        body = {"name": name, "endpoints": list(endpoints), "models": list(models), "read_only": read_only}
        return self._client.call("POST", path_of("keys"), json={**body, **given(**more)})

    def list(self) -> Rows:
        return self._client.pages(path_of("keys"), "keys")

    def revoke(self, key_id: str) -> Row:
        return self._client.call("DELETE", path_of("keys", key_id))

    def rotate(self, key_id: str, grace_s: int | None = None, expires_in_s: int | None = None) -> Row:
        """The new key, with its secret; the old one works on for the grace (24 hours unless told)."""
        body = given(grace_s=grace_s, expires_in_s=expires_in_s)
        return self._client.call("POST", path_of("keys", key_id, "rotate"), json=body)


class Audit(Remote):
    def list(self, limit: int = 100, unknown: bool = False, **of: Any) -> Rows:
        """Newest first, page by page. `of`: since and until (epoch milliseconds), user, action.

        `unknown`: refusals of callers whose key nobody knows.
        """
        found: Rows = []
        before: int | None = None
        while len(found) < limit:
            params = given(limit=min(limit - len(found), 1000), before=before, unknown=unknown, **of)
            answer = self._client.call("GET", path_of("audit"), params=params)
            found += answer["audit"]
            before = answer["next"]
            if before is None:
                break
        return found

    def verify(self, anchor: str | None = None, unknown: bool = False) -> Row:
        """Whether the chain is whole; `anchor` is what an earlier one answered."""
        return self._client.call("GET", path_of("audit", "verify"), params=given(unknown=unknown, anchor=anchor))
