"""Ids of requests: HAProxy's where it shows the secret, else drawn."""

import re

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from luthier.platform.request_ids import HEADER, new_request_id, request_id
from luthier.serve.doors.middleware import RequestId
from luthier.serve.haproxy_shim import REQUEST_ID

SECRET = "5ec7e7"
UNIQUE = "0f8fad5b-d9cb-469f-a165-70867728950e"
TOLD = f"{SECRET} 1700000000000 {UNIQUE}"
MEANT = "req_018bcfe568000f8fad5bd9cb469fa165"


def asked(told: str, secret: str = SECRET) -> str:
    return request_id([(b"host", b"x"), (HEADER, told.encode("latin-1"))], secret)


def test_haproxys_own() -> None:
    assert asked(TOLD) == asked(TOLD) == MEANT
    assert REQUEST_ID.encode() == HEADER


@pytest.mark.parametrize(
    "told",
    [
        TOLD.replace(SECRET, "5ec7e8"),
        TOLD.replace(SECRET, "\u00fc"),
        TOLD.replace(SECRET, ""),
        f" 1700000000000 {UNIQUE}",
        f"1700000000000 {UNIQUE}",
        f"{SECRET} 17000000000 {UNIQUE}",
        f"{SECRET} 1700000000000 {UNIQUE}0",
        f"{SECRET} 1700000000000 ../../etc/passwd",
        f"{TOLD} ",
        f"{TOLD}, {TOLD}",
        "",
    ],
)
def test_what_is_not_haproxys(told: str) -> None:
    drawn = asked(told)
    assert drawn != MEANT
    assert re.fullmatch("req_[0-9a-f]{32}", drawn)
    assert drawn != asked(told), "a new one each time"


def test_without_a_haproxy_none_is_taken() -> None:
    assert asked(TOLD, "") != MEANT
    assert asked(f" 1700000000000 {UNIQUE}", "") != MEANT


def test_a_new_one_begins_with_its_time() -> None:
    ids = [new_request_id() for _ in range(100)]
    assert len(set(ids)) == 100
    times = [each[:16] for each in ids]
    assert times == sorted(times)


def test_a_door_takes_what_haproxy_tells() -> None:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await PlainTextResponse(scope["state"]["id"])(scope, _receive, send)

    client = TestClient(RequestId(app, SECRET))
    answers = [client.get("/", headers={REQUEST_ID: TOLD}) for _ in range(2)]
    assert {(each.text, each.headers["x-request-id"]) for each in answers} == {(MEANT, MEANT)}
    assert client.get("/").text != MEANT
    assert TestClient(RequestId(app, "")).get("/", headers={REQUEST_ID: TOLD}).text != MEANT
