"""An identity provider: discovery and keys over real HTTP, and tokens signed by them."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from luthier.platform.access import Caller
from luthier.platform.keys import Session
from luthier.platform.registry.registry import Registry
from luthier.serve.doors.oidc import Oidc
from tests.factories import ADMIN, make_settings
from tests.fakes import Clock

AUDIENCE = "luthier"
ANN = Caller(account=ADMIN.account, user="ANN", role="SALES")
"""As whom a token of `ann` acts that says nothing else."""


class Provider:
    def __init__(self) -> None:
        self.keys: dict[str, tuple[Any, str]] = {}
        """By their ids: the private key and its algorithm."""
        self.published: list[dict[str, Any]] = []
        self.num_fetched = 0
        self.num_asked = 0
        self.is_down = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.issuer_told: str | None = None
        self.moved: dict[str, str] = {}
        """Where it sends whom asks for a path."""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer(self)

            def log_message(self, *_args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It is asked, and answers at the end."""
        self.may_answer.clear()
        try:
            yield
        finally:
            self.may_answer.set()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.num_asked += 1
        assert self.may_answer.wait(60)
        if to := self.moved.get(request.path):
            request.send_response(302)
            request.send_header("Location", to)
            request.end_headers()
            return
        body: dict[str, Any] = {"keys": self.published}
        if request.path == "/.well-known/openid-configuration":
            body = {"issuer": self.issuer_told or self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        else:
            self.num_fetched += 1
        request.send_response(500 if self.is_down else 200)
        request.end_headers()
        request.wfile.write(json.dumps(body).encode())

    def add_key(self, kid: str, algorithm: str = "RS256", publish: bool = True, **told: Any) -> Any:
        """A new private key; whatever it is told to say of itself."""
        made = {"RS": _rsa, "PS": _rsa, "ES": lambda: ec.generate_private_key(ec.SECP256R1())}
        private: Any = made.get(algorithm[:2], ed25519.Ed25519PrivateKey.generate)()
        self.keys[kid] = (private, algorithm)
        data = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
        if publish:
            self.published.append({**data, "kid": kid, "use": "sig", **told})
        return private

    def token(self, kid: str = "a", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Good for five minutes; claims that are None are left out."""
        private, algorithm = self.keys[kid]
        return jwt.encode(self.claims(**claims), private, algorithm, {"kid": kid, **(headers or {})})

    def claims(self, **given: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {"iss": self.issuer, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 300}
        return {name: value for name, value in {**usual, **given}.items() if value is not None}


def oidc_of(registry: Registry, home: Path, provider: Provider, clock: Clock, **given: Any) -> Oidc:
    fields = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE, **given}
    return Oidc(make_settings(home, home / "none", **fields), registry, clock)


def session_of(oidc: Oidc, token: str, role: str | None = None) -> Session:
    """What a token opens."""
    proven = asyncio.run(oidc.proven(token))
    return oidc.session((*proven.who, role)).model_copy(update={"expires_on": proven.expires_on})


def unsigned(claims: dict[str, Any], header: dict[str, Any]) -> str:
    return f"{_part(header)}.{_part(claims)}."


def _part(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)
