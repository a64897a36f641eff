"""What every route asks for: the services, and the caller behind the key. The one place that lets somebody in."""

from typing import Annotated

from fastapi import Depends, Header, Request
from starlette.types import Scope

from luthier.errors import NotAuthenticated
from luthier.platform.access import Caller, hash_key
from luthier.platform.jobs import now_ms
from luthier.platform.keys import Endpoint, Session, endpoint_of, is_change
from luthier.platform.registry.registry import Registry
from luthier.serve.doors.oidc import Oidc, Tokens, is_token
from luthier.serve.known import Epoch, Known
from luthier.serve.last_use import LastUse
from luthier.serve.services import Services
from luthier.serve.threads import REGISTRY

FRESH_SECONDS = 5.0
"""A revoked key works for at most so long; one that expires ends at its time."""
KEYS = "/luthier/v1/keys"
"""Keys see to their own scopes."""
MODELS = "/luthier/v1/models"
"""Models are named in the path behind it; one that files in a body become, in the query."""
AUTHORIZATION = b"authorization"
ROLE_HEADERS = (b"luthier-role", b"x-snowflake-role")
"""Name the role to act in, within the key's own; without them it is that."""
WHO = (AUTHORIZATION, *ROLE_HEADERS)
Asked = tuple[str, str | None]
"""A key's hash, and the role to act in."""


class KeyCheck:
    """Keys and tokens to sessions, known from the first request on (known.py); unknown ones are asked each time."""

    def __init__(self, registry: Registry, epoch: Epoch, oidc: Oidc | None = None) -> None:
        def ask(asked: Asked) -> Session:
            return registry.keys.authenticate(*asked)

        self._keys = Known(epoch, ask, registry.keys.authenticate_all, FRESH_SECONDS)
        self._tokens = Tokens(oidc, registry.keys, epoch, FRESH_SECONDS) if oidc else None
        self._used = LastUse(registry.keys.used, epoch.clock)

    async def open(self, scope: Scope) -> Session:
        """Who sent the request, if his key is for it. He is noted in its state, also where he is refused."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in WHO}
        role = next((headers[name] for name in ROLE_HEADERS if headers.get(name)), None)
        state = scope["state"]
        try:
            session = await self.session(headers.get(AUTHORIZATION), role)
        except NotAuthenticated as error:
            state["caller"] = error.caller
            raise
        state["caller"], state["session"] = session.caller, session
        path = _path(scope)
        endpoint = endpoint_of(path)
        changes = is_change(scope["method"], endpoint)
        session.check(endpoint, changes)
        if changes and endpoint is not Endpoint.MODELS and not path.startswith(KEYS):
            session.check_unbounded(f"{scope['method']} {path}")
        return session

    async def session(self, header: str | None, role: str | None = None) -> Session:
        """`header` is Authorization: `Bearer KEY`, or `Snowflake Token="KEY"` as Snowflake's clients send it.

        `role` is the one to act in, as written; a key's own, or a token's first, without it.
        """
        key = _key(header or "")
        if not key:
            raise NotAuthenticated("No API key. Send the header `Authorization: Bearer KEY`.")
        if self._tokens is not None and is_token(key):
            session = await self._tokens.session(key, role)
        else:
            session = await self._keys.get((hash_key(key), role))
        if session.expires_on is not None and session.expires_on <= now_ms():
            raise _over(session)
        if session.caller.key:
            self._used.note(session.caller.key)
        return session


def _over(session: Session) -> NotAuthenticated:
    what = f"API key {session.caller.key}" if session.caller.key else "The token"
    error = NotAuthenticated(f"{what} has expired. Use another.")
    error.caller = session.caller
    return error


def _key(header: str) -> str:
    scheme, _, given = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip()
        case "snowflake":
            name, _, token = given.strip().partition("=")
            return token.strip('"') if name.lower() == "token" else ""
    return ""


async def _session(request: Request) -> Session:
    check: KeyCheck = request.app.state.keys
    session = await check.open(request.scope)
    if session.scope.models is not None:
        await _check_model(session, request)
    return session


async def _check_model(session: Session, request: Request) -> None:
    """For the model that a request names, or that a job makes which it names."""
    services: Services = request.app.state.services
    path, named = _path(request.scope), request.path_params
    tuned = named.get("name", request.query_params.get("name")) if path.startswith(MODELS) else None
    if tuned:
        services.check_tuned(session, tuned)
    elif model := named.get("model"):
        services.check_model(session, model)
    elif job_id := named.get("job_id"):
        await REGISTRY.run(services.check_job, session, job_id)
    elif _holds_others(request, path):
        session.check_unbounded(f"{request.method} {path}")


def _holds_others(request: Request, path: str) -> bool:
    """Changes that name no model, and what batches asked and were answered."""
    match endpoint_of(path):
        case Endpoint.MODELS:
            return is_change(request.method, Endpoint.MODELS)
        case Endpoint.BATCHES:
            return bool(request.path_params)
    return False


def _path(scope: Scope) -> str:
    """Without what stands before all of an app's."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def _caller(session: Annotated[Session, Depends(_session)]) -> Caller:
    return session.caller


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


SessionOf = Annotated[Session, Depends(_session)]
CallerOf = Annotated[Caller, Depends(_caller)]
ServicesOf = Annotated[Services, Depends(_services)]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]
