"""API keys: what one may be used for, and the rule that says whether a request is within that. Pure."""

import secrets
from enum import StrEnum

from pydantic import Field

from luthier.errors import InvalidInput, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen

READING = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_GRACE_S = 24 * 3600
MAX_GRACE_S = 30 * 24 * 3600


class Endpoint(StrEnum):
    """Parts of the API that a key may be kept to."""

    COMPLETIONS = "completions"
    BATCHES = "batches"
    FINETUNING = "finetuning"
    SQL = "sql"
    TABLES = "tables"
    MODELS = "models"
    USAGE = "usage"
    ADMIN = "admin"


PATHS: tuple[tuple[str, Endpoint | None], ...] = (
    ("/v1/chat/completions", Endpoint.COMPLETIONS),
    ("/v1/completions", Endpoint.COMPLETIONS),
    ("/v1/models", Endpoint.MODELS),
    ("/v1/files", Endpoint.BATCHES),
    ("/v1/batches", Endpoint.BATCHES),
    ("/api/v2/cortex/models", Endpoint.MODELS),
    ("/api/v2/cortex", Endpoint.COMPLETIONS),
    ("/serving-endpoints", Endpoint.COMPLETIONS),
    ("/api/2.0/serving-endpoints", Endpoint.MODELS),
    ("/luthier/v1/jobs", Endpoint.FINETUNING),
    ("/luthier/v1/sql", Endpoint.SQL),
    ("/luthier/v1/tables", Endpoint.TABLES),
    ("/luthier/v1/views", Endpoint.TABLES),
    ("/luthier/v1/models", Endpoint.MODELS),
    ("/luthier/v1/base-models", Endpoint.MODELS),
    ("/luthier/v1/engines", Endpoint.MODELS),
    ("/luthier/v1/shares", Endpoint.ADMIN),
    ("/luthier/v1/shared-databases", Endpoint.ADMIN),
    ("/luthier/v1/usage", Endpoint.USAGE),
    ("/luthier/v1/statement", Endpoint.USAGE),
    ("/luthier/v1/credits/topups", Endpoint.ADMIN),
    ("/luthier/v1/credits/limit", Endpoint.ADMIN),
    ("/luthier/v1/credits/budgets", Endpoint.ADMIN),
    ("/luthier/v1/credits/alert", Endpoint.ADMIN),
    ("/luthier/v1/credits", Endpoint.USAGE),
    ("/metrics", Endpoint.USAGE),
    ("/luthier/v1/whoami", None),
)
"""The part that a path belongs to; the first that fits. None: every key's. What is not here is ADMIN's."""


class Scope(Frozen):
    """What a key may be used for, within what its role may do. None: all."""

    endpoints: tuple[Endpoint, ...] | None = Field(None, min_length=1)
    models: tuple[str, ...] | None = Field(None, min_length=1)
    """By their full names: they are all that the key may ask, look at or change."""
    read_only: bool = False
    """It changes nothing; completions change nothing."""

    @property
    def is_full(self) -> bool:
        return self.endpoints is None and self.models is None and not self.read_only

    def covers(self, other: "Scope") -> bool:
        """Whether all that `other` allows is allowed here too."""
        return (
            _holds(self.endpoints, other.endpoints)
            and _holds(self.models, other.models)
            and (other.read_only or not self.read_only)
        )

    def __str__(self) -> str:
        parts = [f"endpoints {', '.join(self.endpoints)}"] if self.endpoints else []
        parts += [f"models {', '.join(self.models)}"] if self.models else []
        parts += ["read-only"] if self.read_only else []
        return "; ".join(parts) or "everything"


FULL = Scope()


class Session(Frozen):
    """What a proof of identity opens: to whom, for what, how long."""

    caller: Caller
    scope: Scope = FULL
    expires_on: int | None = None
    """Epoch milliseconds."""

    def check(self, endpoint: Endpoint | None, is_change: bool) -> None:
        """NotAllowed, with key and scope, for what the scope does not hold. `endpoint` None: every key's."""
        scope = self.scope
        if endpoint and scope.endpoints is not None and endpoint not in scope.endpoints:
            raise self._refused(f"not for {endpoint}")
        if is_change and scope.read_only:
            raise self._refused("read-only")

    def check_unbounded(self, what: str) -> None:
        """For requests that reach models whose names cannot be told beforehand."""
        if self.scope.models is not None:
            raise self._refused(f"for some models alone, and {what} may reach any")

    def check_model(self, *names: str) -> None:
        """`names` are one model's: with the version that is asked for, without, in full."""
        if self.scope.models is not None and not set(names) & set(self.scope.models):
            raise self._refused(f"not for model {names[0]}")

    def _refused(self, why: str) -> NotAllowed:
        return NotAllowed(
            f"Key {self.caller.key} is {why}. Its scope is: {self.scope}. Use another key, or have one made by "
            f"`luthier keys create`."
        )


class KeyInfo(Frozen):
    """A key as it is shown: all but the secret and its hash."""

    id: str
    name: str
    prefix: str
    user: str
    role: str
    scope: Scope
    created_on: int
    created_by: str
    expires_on: int | None = None
    last_used_on: int | None = None
    """To within a minute."""
    revoked_on: int | None = None
    rotated_to: str | None = None
    """The id of the key that took its place."""


class NewKey(Frozen):
    """What a key is made of; the door has drawn id and secret, so that a second call makes no second key."""

    id: str
    hash: str
    prefix: str
    name: str = Field("", max_length=255)
    user: str | None = None
    """None: the caller."""
    role: str | None = None
    """None: the caller's, or the user's own default."""
    scope: Scope = FULL
    expires_on: int | None = None


def new_key_id() -> str:
    return f"key_{secrets.token_hex(12)}"


def endpoint_of(path: str) -> Endpoint | None:
    """Of a request's path; None: every key may."""
    for prefix, endpoint in PATHS:
        if path == prefix or path.startswith((f"{prefix}/", f"{prefix}:")):
            return endpoint
    return Endpoint.ADMIN


def is_change(method: str, endpoint: Endpoint | None) -> bool:
    """A completion changes nothing; what a statement of SQL does is in the statement."""
    return method not in READING and endpoint not in (Endpoint.COMPLETIONS, Endpoint.SQL)


def ends_by(now: int, seconds: int | None) -> int | None:
    """Epoch milliseconds at which a time from now ends."""
    if seconds is None:
        return None
    if seconds < 1:
        raise InvalidInput(f"A key ends in the future: {seconds} seconds from now is not.")
    return now + seconds * 1000


def _holds(all_of: tuple[str, ...] | None, wanted: tuple[str, ...] | None) -> bool:
    return all_of is None or (wanted is not None and set(wanted) <= set(all_of))
