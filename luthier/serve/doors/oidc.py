"""Tokens of an identity provider (OIDC): checked by its public keys, then a user of the account.

Issuer, audience and algorithms are the settings'; nothing that a token says of itself decides how it is checked. Keys
are fetched beside the requests: tokens by those that are known wait for no fetch.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, NamedTuple, TypeGuard
from urllib.request import HTTPRedirectHandler, Request, build_opener

import jwt

from luthier.errors import NotAuthenticated, Unavailable
from luthier.platform.access import ADMIN_USER
from luthier.platform.keys import Session
from luthier.platform.names import MAX_IDENTIFIER_CHARS, as_written
from luthier.platform.registry.keys import Keys
from luthier.platform.registry.registry import Registry
from luthier.platform.securables import role_key, user_key
from luthier.platform.settings import Settings
from luthier.serve.known import Epoch, Known
from luthier.serve.remember import Remembered, beside
from luthier.serve.silence import NEW_PATIENCE_SECONDS
from luthier.serve.threads import PROVIDER

log = logging.getLogger(__name__)

LEEWAY_SECONDS = 30
"""How far the provider's clock may be off ours."""
RENEW_SECONDS, KEEP_SECONDS = 1800.0, 3600.0
"""Keys are fetched anew when they are so old; and so long at the most a key that was withdrawn is good."""
REFETCH_SECONDS = 30.0
"""For a key that nobody knows, they are fetched at most so often."""
FETCH_TIMEOUT_SECONDS = 5.0
MAX_BYTES = 1 << 20
Who = tuple[str, str, tuple[str, ...]]
"""Account, user, and the roles that a token names."""
As = tuple[str, str, tuple[str, ...], str | None]
"""The same, and the role to act in, as it was written."""
DISCOVERY = "/.well-known/openid-configuration"


def is_token(key: str) -> bool:
    """Whether it looks like a JWT: three parts, the first of them an object in base64."""
    return key.startswith("eyJ") and key.count(".") == 2


class Proven(NamedTuple):
    """What a token says that is accepted."""

    who: Who
    expires_on: int
    """Epoch milliseconds."""


class Oidc:
    """One provider. Belongs to one event loop."""

    def __init__(self, settings: Settings, registry: Registry, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._registry = settings, registry
        self._keys = ProviderKeys(settings, clock)
        self._role_names = {told: role_key(name) for told, name in settings.oidc_roles.items()}

    async def proven(self, token: str) -> Proven:
        """Whom a token names, without a question to the registry; NotAuthenticated says what is wrong with it."""
        settings = self._settings
        claims = await self._claims(token)
        user = claims.get(settings.oidc_user_claim)
        if not _is_name(user):
            raise NotAuthenticated(f"The token's claim {settings.oidc_user_claim} names no user.")
        name = user_key(as_written(user))
        if name == ADMIN_USER and not settings.oidc_admin:
            raise NotAuthenticated(f"The user {name} takes keys, and tokens only where `oidc_admin` is set.")
        who = (settings.oidc_account or settings.account, name, self._roles(claims))
        return Proven(who, (int(claims["exp"]) + LEEWAY_SECONDS) * 1000)

    def session(self, who: As) -> Session:
        """What a token opens to whom it names, in a role that he has. Blocks."""
        settings = self._settings
        return self._registry.keys.session_of(*who, settings.oidc_issuer if settings.oidc_create_users else None)

    async def _claims(self, token: str) -> dict[str, Any]:
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in settings.oidc_algorithms:
                raise NotAuthenticated(f"The token is signed by {header.get('alg')}, which is not accepted here.")
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._keys.get(header.get("kid"), header["alg"]),
                algorithms=[header["alg"]],
                audience=settings.oidc_audience,
                issuer=settings.oidc_issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
            return claims
        except jwt.PyJWTError as error:
            raise NotAuthenticated(f"The token is not accepted: {error}.") from error

    def _roles(self, claims: dict[str, Any]) -> tuple[str, ...]:
        """Those that the claim names, by the settings' table where it has them."""
        told = claims.get(self._settings.oidc_role_claim) if self._settings.oidc_role_claim else None
        names = [told] if isinstance(told, str) else told if isinstance(told, list) else []
        known = self._role_names
        return tuple(known.get(name) or role_key(as_written(name)) for name in names if _is_name(name))


class Tokens:
    """Tokens to sessions: what they prove is looked at here, what their users may is known (known.py)."""

    def __init__(self, oidc: Oidc, keys: Keys, epoch: Epoch, fresh_seconds: float) -> None:
        self._proven = Remembered(oidc.proven, fresh_seconds / 2, fresh_seconds, epoch.clock)
        self._sessions = Known(epoch, oidc.session, keys.sessions_of, fresh_seconds)

    async def session(self, token: str, role: str | None = None) -> Session:
        who, expires_on = await self._proven.get(token)
        session = await self._sessions.get((*who, role))
        return session.model_copy(update={"expires_on": expires_on})


class ProviderKeys:
    """The provider's public keys, fetched when they are old, or when an unknown one is asked for."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings, self._clock = settings, clock
        self._known: list[dict[str, Any]] = []
        self._renew_at = self._good_until = self._next_try = -1.0
        self._flight: asyncio.Task[None] | None = None

    async def get(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        """The key of that id, made for that algorithm. Who asks for one that is not there waits for a fetch."""
        now, key = self._clock(), self._find(kid, algorithm)
        if key is None or now >= self._good_until:
            await self._fetched(now)
            key = self._find(kid, algorithm)
        elif now >= self._renew_at:
            self._fetching(now)
        if self._clock() >= self._good_until:
            raise _not_fetched()
        if key is None:
            raise NotAuthenticated(f"The token is signed by a key ({kid}) that the identity provider does not have.")
        return key

    async def _fetched(self, now: float) -> None:
        """As long as anybody waits who is not known. The fetch goes on."""
        if flight := self._fetching(now):
            done, _ = await asyncio.wait([flight], timeout=NEW_PATIENCE_SECONDS)
            if not done:
                raise _not_fetched()
            flight.result()

    def _fetching(self, now: float) -> asyncio.Task[None] | None:
        """The fetch that is under way, or that may begin now."""
        if (self._flight is None or self._flight.done()) and now >= self._next_try:
            self._next_try = now + REFETCH_SECONDS
            self._flight = beside(PROVIDER.run(self._fetch, now))
        return None if self._flight is None or self._flight.done() else self._flight

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """A provider with one key need not name it."""
        fitting = [data for data in self._known if _is_for(data, algorithm) and kid in (None, data.get("kid"))]
        return jwt.PyJWK(fitting[0], algorithm) if fitting and (kid is not None or len(fitting) == 1) else None

    def _fetch(self, now: float) -> None:
        """What is known stays good for its time when the provider does not answer."""
        try:
            self._known = [data for data in _read_json(self._url())["keys"] if isinstance(data, dict)]
            self._renew_at, self._good_until = now + RENEW_SECONDS, now + KEEP_SECONDS
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            log.warning("the keys of %s were not fetched: %s", self._settings.oidc_issuer, error)

    def _url(self) -> str:
        settings = self._settings
        if settings.oidc_jwks_url:
            return settings.oidc_jwks_url
        told = _read_json(settings.oidc_issuer.rstrip("/") + DISCOVERY)
        if told.get("issuer") != settings.oidc_issuer:
            raise ValueError(f"its discovery document is of another issuer: {told.get('issuer')}")
        return str(told["jwks_uri"])


def _not_fetched() -> Unavailable:
    return Unavailable("The identity provider's keys cannot be fetched. Try again later.")


def make_oidc(settings: Settings, registry: Registry) -> Oidc | None:
    """None where no provider is set."""
    return Oidc(settings, registry) if settings.oidc_issuer else None


def _is_name(claim: object) -> TypeGuard[str]:
    """Whether somebody could be called so; in SQL some only in quotes."""
    return isinstance(claim, str) and 0 < len(claim) <= MAX_IDENTIFIER_CHARS and "\0" not in claim


def _is_for(data: dict[str, Any], algorithm: str) -> bool:
    """Whether a key signs so: by its own word, and by its kind. A shared secret (oct) signs nothing here."""
    families = {"RSA": ("RS", "PS"), "EC": ("ES",), "OKP": ("EdDSA",)}
    is_of_kind = algorithm.startswith(families.get(str(data.get("kty")), ("-",)))
    return is_of_kind and data.get("alg") in (None, algorithm) and data.get("use") in (None, "sig")


class _Stay(HTTPRedirectHandler):
    """A redirect is followed nowhere: it is an HTTPError as any other status."""

    def redirect_request(self, *_told: object) -> None:
        return None


_OPENER = build_opener(_Stay)


def _read_json(url: str) -> dict[str, Any]:
    """Of the settings' own address, or one that it named; the settings allow http on this machine alone."""
    asked = Request(url, headers={"Accept": "application/json"})
    with _OPENER.open(asked, timeout=FETCH_TIMEOUT_SECONDS) as response:
        found = json.loads(response.read(MAX_BYTES))
    if not isinstance(found, dict):
        raise ValueError(f"{url} answers no object")
    return found
