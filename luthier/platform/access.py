"""Who calls: account, user, role, API key. One admin today; every noun already carries all three."""

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


def new_key() -> str:
    """A fresh API key with 256 random bits, to be shown once."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What is stored of a key. A plain SHA-256 is enough for 256 random bits, and lookup by hash is constant-time."""
    return hashlib.sha256(key.encode()).hexdigest()
