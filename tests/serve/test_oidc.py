"""Tokens of an identity provider over real HTTP: what is accepted, what is refused, when its keys are fetched."""

import asyncio
import hashlib
import hmac
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from luthier.errors import NotAuthenticated, Unavailable
from luthier.platform.access import Caller
from luthier.platform.keys import Session
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.doors import oidc as module
from luthier.serve.doors.deps import KeyCheck
from luthier.serve.doors.oidc import DISCOVERY, KEEP_SECONDS, LEEWAY_SECONDS, REFETCH_SECONDS, RENEW_SECONDS, Oidc
from luthier.serve.known import Epoch
from tests.factories import ADMIN, KEY
from tests.fakes import Clock
from tests.serve.provider import ANN, AUDIENCE, Provider, oidc_of, session_of, unsigned

pytestmark = pytest.mark.usefixtures("ann")


@pytest.fixture
def oidc(registry: Registry, home: Path, provider: Provider, clock: Clock) -> Oidc:
    return oidc_of(registry, home, provider, clock)


def test_a_good_token(oidc: Oidc, provider: Provider) -> None:
    claims = provider.claims()
    session = session_of(oidc, provider.token())
    assert session == Session(caller=ANN, expires_on=(claims["exp"] + LEEWAY_SECONDS) * 1000)


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA", "PS256"])
def test_algorithms(registry: Registry, home: Path, provider: Provider, clock: Clock, algorithm: str) -> None:
    provider.add_key("b", algorithm)
    accepting = oidc_of(registry, home, provider, clock, oidc_algorithms=(algorithm,))
    assert session_of(accepting, provider.token("b")).caller == ANN
    other = oidc_of(registry, home, provider, clock, oidc_algorithms=("ES384",))
    with pytest.raises(NotAuthenticated, match=f"signed by {algorithm}, which is not accepted"):
        session_of(other, provider.token("b"))


NOW = int(time.time())
BAD_CLAIMS = {
    "issuer": ({"iss": "https://evil.example"}, "Invalid issuer"),
    "no issuer": ({"iss": None}, 'missing the "iss" claim'),
    "audience": ({"aud": "another"}, "Audience doesn't match"),
    "no audience": ({"aud": None}, 'missing the "aud" claim'),
    "expired": ({"exp": NOW - LEEWAY_SECONDS - 60}, "expired"),
    "no end": ({"exp": None}, 'missing the "exp" claim'),
    "not yet": ({"nbf": NOW + 3600}, "not yet valid"),
    "issued later": ({"iat": NOW + 3600}, "not yet valid"),
    "user": ({"sub": "bob"}, "'BOB' is no user here"),
    "no user": ({"sub": None}, "claim sub names no user"),
    "empty user": ({"sub": ""}, "claim sub names no user"),
}


@pytest.mark.parametrize("what", BAD_CLAIMS)
def test_a_claim_that_is_not_right(oidc: Oidc, provider: Provider, what: str) -> None:
    claims, told = BAD_CLAIMS[what]
    with pytest.raises(NotAuthenticated, match=told):
        session_of(oidc, provider.token(**claims))


def test_a_clock_that_is_a_little_off(oidc: Oidc, provider: Provider) -> None:
    now = int(time.time())
    assert session_of(oidc, provider.token(exp=now - LEEWAY_SECONDS // 2, nbf=now - 60))
    assert session_of(oidc, provider.token(nbf=now + LEEWAY_SECONDS // 2))


def test_one_of_several_audiences(oidc: Oidc, provider: Provider) -> None:
    assert session_of(oidc, provider.token(aud=["another", AUDIENCE]))


def test_a_changed_token(oidc: Oidc, provider: Provider) -> None:
    head, _, signature = provider.token().split(".")
    forged = unsigned(provider.claims(sub="other"), {}).split(".")[1]
    with pytest.raises(NotAuthenticated, match="Signature verification failed"):
        session_of(oidc, f"{head}.{forged}.{signature}")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256", "", None, 7])
def test_no_signature(oidc: Oidc, provider: Provider, algorithm: Any) -> None:
    with pytest.raises(NotAuthenticated):
        session_of(oidc, unsigned(provider.claims(), {"alg": algorithm, "kid": "a", "typ": "JWT"}))
    assert provider.num_fetched == 0


def test_the_public_key_is_no_shared_secret(registry: Registry, home: Path, provider: Provider, clock: Clock) -> None:
    public = provider.keys["a"][0].public_key()
    secrets = [public.public_bytes(form, PublicFormat.SubjectPublicKeyInfo) for form in (Encoding.PEM, Encoding.DER)]
    for algorithm in ("HS256", "RS256"):
        signed = unsigned(provider.claims(), {"alg": algorithm, "kid": "a"}).rstrip(".")
        for secret in secrets:
            import base64

            mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
            token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
            with pytest.raises(NotAuthenticated):
                session_of(oidc_of(registry, home, provider, clock), token)


def test_a_shared_secret_among_the_keys_signs_nothing(oidc: Oidc, provider: Provider) -> None:
    provider.published.append({"kty": "oct", "kid": "s", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "RS256"})
    with pytest.raises(NotAuthenticated, match=r"a key \(s\) that the identity provider does not have"):
        session_of(oidc, provider.token(headers={"kid": "s"}))


@pytest.mark.parametrize("told", [{"use": "enc"}, {"alg": "RS512"}])
def test_a_key_for_something_else(oidc: Oidc, provider: Provider, told: dict[str, Any]) -> None:
    provider.add_key("b", **told)
    with pytest.raises(NotAuthenticated, match="does not have"):
        session_of(oidc, provider.token("b"))


def test_a_key_under_the_name_of_another(oidc: Oidc, provider: Provider) -> None:
    provider.add_key("evil", publish=False)
    with pytest.raises(NotAuthenticated, match="Signature verification failed"):
        session_of(oidc, provider.token("evil", headers={"kid": "a"}))


def test_a_token_that_brings_its_own_key(oidc: Oidc, provider: Provider) -> None:
    provider.add_key("evil", publish=False)
    own = {
        "jku": "http://127.0.0.1:1/keys",
        "jwk": {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        "x5u": "http://127.0.0.1:1",
    }
    with pytest.raises(NotAuthenticated):
        session_of(oidc, provider.token("evil", headers=own))
    assert provider.num_fetched == 1


def test_a_weak_key(oidc: Oidc, provider: Provider) -> None:
    private = rsa.generate_private_key(65537, 1024)
    numbers = private.public_key().public_numbers()
    import jwt
    from jwt.algorithms import RSAAlgorithm

    assert numbers.n.bit_length() == 1024
    provider.published.append({**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": "weak"})
    token = jwt.encode(provider.claims(), private, "RS256", {"kid": "weak"})
    with pytest.raises(NotAuthenticated, match="below the minimum"):
        session_of(oidc, token)


@pytest.mark.parametrize(
    "token", ["eyJ.eyJ.x", "eyJhbGciOiJSUzI1NiJ9..", "eyJhbGciOiJSUzI1NiJ9.e30.AAAA", "eyJ\u00fc.a.b"]
)
def test_no_token_at_all(oidc: Oidc, token: str) -> None:
    with pytest.raises(NotAuthenticated):
        session_of(oidc, token)


# the provider's keys


def test_keys_are_fetched_once(oidc: Oidc, provider: Provider) -> None:
    for _ in range(5):
        session_of(oidc, provider.token())
    assert provider.num_fetched == 1


def test_a_rotated_key(oidc: Oidc, provider: Provider, clock: Clock) -> None:
    session_of(oidc, provider.token())
    provider.add_key("b", "ES256")
    clock.now += REFETCH_SECONDS
    assert session_of(oidc, provider.token("b")).caller == ANN
    assert session_of(oidc, provider.token("a")).caller == ANN
    assert provider.num_fetched == 2


def test_unknown_keys_are_asked_for_at_most_so_often(oidc: Oidc, provider: Provider, clock: Clock) -> None:
    session_of(oidc, provider.token())
    provider.add_key("gone", publish=False)
    for _ in range(3):
        clock.now += REFETCH_SECONDS
        for _ in range(20):
            with pytest.raises(NotAuthenticated, match="does not have"):
                session_of(oidc, provider.token("gone"))
    assert provider.num_fetched == 4


def test_a_withdrawn_key_ends_in_the_stated_time(oidc: Oidc, provider: Provider, clock: Clock) -> None:
    provider.add_key("b")
    token = provider.token("b")
    assert session_of(oidc, token)
    del provider.published[1]
    clock.now += KEEP_SECONDS
    with pytest.raises(NotAuthenticated, match="does not have"):
        session_of(oidc, token)


def test_a_provider_that_is_down(oidc: Oidc, provider: Provider, clock: Clock) -> None:
    provider.is_down = True
    with pytest.raises(Unavailable, match="keys cannot be fetched"):
        session_of(oidc, provider.token())
    provider.is_down = False
    clock.now += REFETCH_SECONDS
    assert session_of(oidc, provider.token())
    provider.is_down = True
    clock.now += KEEP_SECONDS - 1
    assert session_of(oidc, provider.token())
    clock.now += 1
    with pytest.raises(Unavailable):
        session_of(oidc, provider.token())


def test_a_provider_that_says_nothing_holds_up_nobody_who_is_known(
    registry: Registry, oidc: Oidc, provider: Provider, clock: Clock
) -> None:
    check = KeyCheck(registry, Epoch(registry.versions.epoch), oidc)
    provider.add_key("gone", publish=False)
    made_up = [provider.token("gone", headers={"kid": f"made-up-{number}"}) for number in range(100)]

    async def known(jti: str) -> list[Caller]:
        """By a token that was not seen yet, and by an API key."""
        async with asyncio.timeout(20):
            return [(await check.session(f"Bearer {each}")).caller for each in (provider.token(jti=jti), KEY)]

    async def story() -> None:
        first = await known("first")
        with provider.silent():
            clock.now += REFETCH_SECONDS
            asked = [asyncio.create_task(check.session(f"Bearer {each}")) for each in made_up]
            while provider.num_asked < 3:
                await asyncio.sleep(0.001)
            assert await known("beside") == first
            clock.now += RENEW_SECONDS
            assert await known("due") == first
        refused = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(each) for each in refused} == {NotAuthenticated}

    asyncio.run(story())
    assert provider.num_fetched == 2


def test_nobody_waits_long_for_a_provider(
    oidc: Oidc, provider: Provider, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEW_PATIENCE_SECONDS", 0.05)

    async def story() -> None:
        with provider.silent(), pytest.raises(Unavailable, match="keys cannot be fetched"):
            await oidc.proven(provider.token())
        monkeypatch.setattr(module, "NEW_PATIENCE_SECONDS", 20)
        assert await oidc.proven(provider.token())

    asyncio.run(story())


def test_keys_are_renewed_before_they_end(oidc: Oidc, provider: Provider, clock: Clock) -> None:
    async def story() -> None:
        await oidc.proven(provider.token())
        clock.now += RENEW_SECONDS
        while provider.num_fetched < 2:
            await oidc.proven(provider.token())
            await asyncio.sleep(0.001)
        provider.is_down = True
        clock.now += KEEP_SECONDS - 1
        await oidc.proven(provider.token())

    asyncio.run(story())


def test_a_discovery_document_of_another_issuer(oidc: Oidc, provider: Provider) -> None:
    provider.issuer_told = "https://evil.example"
    with pytest.raises(Unavailable):
        session_of(oidc, provider.token())


@pytest.mark.parametrize("path", ["/keys", DISCOVERY])
def test_a_redirect_is_not_followed(oidc: Oidc, provider: Provider, path: str) -> None:
    provider.moved[path] = f"{provider.issuer}/elsewhere"
    with pytest.raises(Unavailable):
        session_of(oidc, provider.token())
    assert not provider.num_fetched


def test_keys_at_an_address_of_their_own(registry: Registry, home: Path, provider: Provider, clock: Clock) -> None:
    given = {"oidc_issuer": "https://issuer.example", "oidc_jwks_url": f"{provider.issuer}/keys"}
    oidc = oidc_of(registry, home, provider, clock, **given)
    assert session_of(oidc, provider.token(iss="https://issuer.example")).caller == ANN


def test_keys_and_tokens_at_one_door(registry: Registry, oidc: Oidc, provider: Provider) -> None:
    check = KeyCheck(registry, Epoch(registry.versions.epoch), oidc)

    async def both() -> list[Caller]:
        return [(await check.session(f"Bearer {each}")).caller for each in (KEY, provider.token())]

    by_key, by_token = asyncio.run(both())
    assert (by_key.identity, by_token) == (ADMIN.identity, ANN)
    with pytest.raises(NotAuthenticated, match="not known here"):
        asyncio.run(KeyCheck(registry, Epoch(registry.versions.epoch)).session(f"Bearer {provider.token()}"))


# settings


@pytest.mark.parametrize(
    "given",
    [
        {"oidc_algorithms": ("HS256",)},
        {"oidc_algorithms": ("RS256", "none")},
        {"oidc_algorithms": ()},
        {"oidc_issuer": "http://issuer.example", "oidc_audience": "x"},
        {"oidc_issuer": "https://issuer.example"},
        {"oidc_issuer": "ftp://127.0.0.1", "oidc_audience": "x"},
        {"oidc_issuer": "https://i.example", "oidc_audience": "x", "oidc_jwks_url": "file:///etc/passwd"},
    ],
)
def test_settings_that_are_refused_at_start(home: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(home=home, **given)
