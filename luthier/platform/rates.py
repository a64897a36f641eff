"""Rate limits: how many requests and tokens a key, a model, or a key on a model may have in a minute. Pure.

Minutes are those of the registry's clock. Processes that answer lease parts of a minute's allowance; what they hold
ends with the minute, so nothing has to be given back by who is gone.
"""

from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from pydantic import Field

from luthier.errors import InvalidInput, RateLimited
from luthier.platform.access import Caller
from luthier.platform.frozen import Frozen
from luthier.platform.models import Resolved
from luthier.platform.names import parse_name

MINUTE_MS = 60_000
MOST = 2**53
MAX_LIMITS = 1_000
"""Of keys, models, and keys on models, in an account. A renewal takes as long as there are limits in use, and all
accounts wait for it."""
ANY = ""
"""In the place of a key or model: all of them, together."""


class Unit(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"


class Asker(NamedTuple):
    """Who asks what, as far as rate limits tell it apart."""

    account: str
    key: str
    model: str


class RateName(NamedTuple):
    """One limit: of an account, of a key or of all that have none of their own named, on a model or on all."""

    account: str
    key: str
    model: str
    unit: Unit

    @property
    def words(self) -> str:
        """Whose it is, for a message."""
        parts = [f"of key {self.key}"] if self.key else []
        parts += [f"on model {self.model}"] if self.model else []
        return " ".join(parts)


class RateLimit(Frozen):
    """What a key, a model or a key on a model may have in a minute. None: of these no limit."""

    key: str | None = None
    """Its public id."""
    model: str | None = None
    """A base model's name, or a tuned model's full name."""
    requests: int | None = Field(None, ge=0, le=MOST)
    tokens: int | None = Field(None, ge=0, le=MOST)


class Limited(NamedTuple):
    """A limit, and how much it allows in a minute."""

    name: RateName
    allowed: int


class RateWant(Frozen):
    """What a holder asks of one minute's allowance; asked twice, or late, it changes nothing twice."""

    name: RateName
    minute: int
    turn: int
    """Rises with each ask for this minute: one that arrives after a later one is answered and not done."""
    total: int
    """What the holder is to have in all of that minute, used included; below what it was, the rest is let go."""
    need: int
    """Of the total, what somebody waits for."""


class RateGrant(Frozen):
    total: int | None
    """None: that minute is over, or not near."""
    left: int
    """What nobody holds."""


class RateRenewal(Frozen):
    """The answer to a holder: the minute, what limits those who ask, and what is granted."""

    minute: int
    left_ms: int
    """To the minute's end."""
    limits: list[tuple[Limited, ...]]
    grants: list[RateGrant]


class Meter(NamedTuple):
    """How one unit stands for who asked."""

    limit: int
    remaining: int
    reset_seconds: float


class RateState(NamedTuple):
    """By the tightest limit of each unit; None: there is none."""

    requests: Meter | None
    tokens: Meter | None


def asker(caller: Caller, resolved: Resolved) -> Asker:
    return Asker(caller.account, caller.key or ANY, _folded(resolved.name) if resolved.adapter else resolved.name)


@lru_cache(maxsize=10_000)
def _folded(display: str) -> str:
    """A tuned model's full name, however it was written when it was made."""
    return parse_name(display, "", "").dotted


def names_on(asker: Asker) -> list[RateName]:
    """Of the limits that there can be on who asks so."""
    keys, models = dict.fromkeys((ANY, asker.key)), dict.fromkeys((ANY, asker.model))
    named = ((key, model) for key in keys for model in models if key or model)
    return [RateName(asker.account, key, model, unit) for key, model in named for unit in Unit]


def check_limit(limit: RateLimit) -> None:
    if limit.key is None and limit.model is None:
        raise InvalidInput("A rate limit is of a key, on a model, or of a key on a model: name one of them.")
    if limit.requests is None and limit.tokens is None:
        raise InvalidInput("A rate limit needs requests or tokens per minute.")


def over_limit(limited: Limited, amount: int, remaining: int, seconds: int) -> RateLimited:
    """Names the limit, what was asked of it and what remains, and when to come again."""
    name, allowed = limited
    error = RateLimited(
        f"Rate limit {name.words} reached: {allowed} {name.unit} per minute, {remaining} remaining, "
        f"{amount} asked for. {_advice(limited, amount, seconds)}"
    )
    error.retry_after = seconds if amount <= allowed else None
    return error


def _advice(limited: Limited, amount: int, seconds: int) -> str:
    if amount <= limited.allowed:
        return f"Try again in {seconds} s."
    if limited.name.unit is Unit.TOKENS:
        return "It never fits: lower max_tokens or shorten the prompt, or raise it (`luthier limits set`)."
    return "Nothing is allowed: raise it (`luthier limits set`)."
