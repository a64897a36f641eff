"""Who calls: account, user, role, API key."""

import hashlib
import secrets

from luthier.platform.frozen import Frozen

KEY_PREFIX = "lt_"
ADMIN_ROLE = "ACCOUNTADMIN"
ADMIN_USER = "admin"


class Caller(Frozen):
    """The identity behind a request."""

    account: str
    user: str
    role: str
    key: str | None = None
    """The public id of the API key that was shown; None: another proof of who he is, or the platform itself."""

    @property
    def identity(self) -> dict[str, str]:
        """Without the key: columns of what he makes."""
        return {"account": self.account, "user": self.user, "role": self.role}


def own_request(caller: Caller, idempotency_key: str) -> str:
    """What a request that may be sent again is known by: the same text is another key of others, or in another role."""
    return hashlib.sha256("\0".join((*caller.identity.values(), idempotency_key)).encode()).hexdigest()


def new_key() -> str:
    """A fresh API key with 256 random bits, to be shown once."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What is stored of a key. A plain SHA-256 is enough for 256 random bits."""
    return hashlib.sha256(key.encode()).hexdigest()
