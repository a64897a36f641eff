"""What every route shares: keys, bodies, routes, request ids, health."""

import asyncio
import gzip
import itertools

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from starlette.types import Message

from luthier.platform.registry.registry import Registry
from luthier.serve.doors.json_route import JsonRoute
from tests.factories import KEY
from tests.fakes import LocalCompletions
from tests.flow.conftest import call, error_of

MIB = 1 << 20
ROUTES = [
    ("GET", "/luthier/v1/jobs"),
    ("POST", "/luthier/v1/sql"),
    ("GET", "/luthier/v1/tables"),
    ("GET", "/luthier/v1/usage/credits"),
    ("GET", "/luthier/v1/whoami"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_key(app: FastAPI, method: str, path: str) -> None:
    response = TestClient(app).request(method, path, json={} if method == "POST" else None)
    assert "Authorization: Bearer KEY" in error_of(response, 401, "invalid_api_key")


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_wrong_key(app: FastAPI, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}x"}
    response = TestClient(app).request(method, path, headers=headers, json={} if method == "POST" else None)
    message = error_of(response, 401, "invalid_api_key")
    assert "not known here" in message
    assert KEY not in message


def test_no_route_is_open_by_mistake(app: FastAPI) -> None:
    """All but these want a key."""
    is_open = {"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
    schema = app.openapi()["paths"]
    client = TestClient(app)
    for path, methods in schema.items():
        for method in methods if path not in is_open else ():
            answer = client.request(
                method.upper(), path.replace("{kind}", "credits"), params={"name": "n", "filename": "f"}
            )
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize("path", ["/luthier/v1/jobs", "/luthier/v1/sql", "/v1/chat/completions"])
def test_a_body_that_is_no_json(api: TestClient, path: str) -> None:
    response = api.post(path, content=b'{"model": ', headers={"Content-Type": "application/json"})
    assert "not valid JSON" in error_of(response, 400, "invalid_parameter_value")


@pytest.mark.parametrize("body", [b"", b"[]", b'"text"'])
def test_a_body_that_is_no_object(api: TestClient, body: bytes) -> None:
    response = api.post("/luthier/v1/sql", content=body, headers={"Content-Type": "application/json"})
    assert "body" in error_of(response, 400, "invalid_parameter_value")


def test_a_missing_field_is_named(api: TestClient) -> None:
    response = api.post("/luthier/v1/sql", json={})
    assert "statement: Field required" in error_of(response, 400, "invalid_parameter_value")
    assert response.json()["error"]["param"] == "statement"


@pytest.mark.parametrize("path", ["/luthier/v1/sql", "/luthier/v1/jobs", "/v1/chat/completions"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length known", "chunked"])
def test_an_oversized_body(api: TestClient, path: str, is_chunked: bool) -> None:
    body = b'{"statement": "' + b"x" * MIB + b'"}'
    parts = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]
    headers = {"Content-Type": "application/json"}
    response = api.post(path, content=iter(parts) if is_chunked else body, headers=headers)
    assert "over the limit of 1 MiB" in error_of(response, 413, "request_too_large")


def test_a_body_at_the_limit(api: TestClient) -> None:
    head, tail = b'{"statement": "SELECT 1', b'"}'
    body = head + b" " * (MIB - len(head) - len(tail)) + tail
    response = api.post("/luthier/v1/sql", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["rows"] == [[1]]


def test_a_body_is_read_no_further_than_its_limit(app: FastAPI) -> None:
    num_parts = itertools.count()

    async def receive() -> Message:
        return {"type": "http.request", "body": b" " * 65_536, "more_body": next(num_parts) < 1000}

    sent = asyncio.run(call(app, receive, "/luthier/v1/sql"))
    assert sent[0]["status"] == 413
    assert next(num_parts) == MIB // 65_536 + 1


def test_an_unknown_route(api: TestClient) -> None:
    message = error_of(api.get("/v1/nothing"), 404, "not_found")
    assert "GET /v1/nothing" in message
    assert "/docs" in message


def test_a_wrong_method(api: TestClient) -> None:
    response = api.put("/luthier/v1/whoami")
    assert error_of(response, 405, "method_not_allowed") == "PUT does not work on /luthier/v1/whoami; allowed: GET."
    assert response.headers["allow"] == "GET"


def test_a_fault_of_ours_says_which_request(app: FastAPI, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(registry.jobs, "show", break_down)
    client = TestClient(app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {KEY}"})
    response = client.get("/luthier/v1/jobs")
    assert response.status_code == 500
    error = response.json()["error"]
    assert error["code"] == "internal_error"
    assert "req_" in error["message"]
    assert "secret" not in response.text


def test_whoami(api: TestClient) -> None:
    told = api.get("/luthier/v1/whoami").json()
    assert (told["account"], told["user"], told["role"]) == ("main", "admin", "ACCOUNTADMIN")
    assert told["key"].startswith("key_")
    assert told["scope"] == {"endpoints": None, "models": None, "read_only": False}


def test_request_ids_differ(api: TestClient) -> None:
    assert len({api.get("/healthz").headers["x-request-id"] for _ in range(3)}) == 3


def test_health_needs_no_key(app: FastAPI, completions: LocalCompletions) -> None:
    client = TestClient(app)
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["base_models"]["tiny"]) == (200, True, True)
    completions.is_ready = False
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["ready"]) == (503, False)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"statement": "\ud800"}',
        b'{"statement": "\xff"}',
        b'{"statement": ' + b"[" * 3_000,
        b'{"statement": 1' + b"0" * 5_000 + b"}",
        gzip.compress(b'{"statement": "SELECT 1"}'),
    ],
    ids=["half a character", "no UTF-8", "too deep", "too large a number", "compressed"],
)
@pytest.mark.parametrize("path", ["/luthier/v1/sql", "/luthier/v1/users", "/v1/batches", "/v1/chat/completions"])
def test_what_is_no_json_here(api: TestClient, path: str, body: bytes) -> None:
    response = api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert "not valid JSON" in error_of(response, 400, "invalid_parameter_value")


def test_every_json_body_is_read_in_one_way(app: FastAPI) -> None:
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.body_field]
    assert len(routes) > 30
    assert {route.path for route in routes if not isinstance(route, JsonRoute)} == set()
