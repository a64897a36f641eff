"""Every route of every door, with keys that are not for it: a route that is added is asked too."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from luthier.platform.keys import Endpoint
from tests.flow.test_keys import bearer, made

OPEN = {"/healthz", "/readyz"}
"""They ask for no key."""
PARTS: dict[Endpoint | None, tuple[str, ...]] = {
    Endpoint.COMPLETIONS: (
        *("/v1/chat/completions", "/v1/completions"),
        *("/api/v2/cortex/v1/chat/completions", "/api/v2/cortex/inference:complete"),
        "/serving-endpoints",
    ),
    Endpoint.BATCHES: ("/v1/files", "/v1/batches"),
    Endpoint.FINETUNING: ("/luthier/v1/jobs",),
    Endpoint.SQL: ("/luthier/v1/sql",),
    Endpoint.TABLES: ("/luthier/v1/tables", "/luthier/v1/views"),
    Endpoint.MODELS: (
        *("/v1/models", "/api/v2/cortex/models", "/api/2.0/serving-endpoints"),
        *("/luthier/v1/models", "/luthier/v1/base-models", "/luthier/v1/engines"),
    ),
    Endpoint.USAGE: ("/metrics", "/luthier/v1/usage", "/luthier/v1/statement", "/luthier/v1/credits"),
    Endpoint.ADMIN: (
        *(f"/luthier/v1/credits/{each}" for each in ("topups", "limit", "budgets", "alert")),
        *(f"/luthier/v1/{each}" for each in ("keys", "users", "roles", "grants", "accounts", "parameters")),
        *(f"/luthier/v1/{each}" for each in ("databases", "schemas", "shares", "shared-databases")),
        *(f"/luthier/v1/{each}" for each in ("audit", "ledger", "limits", "webhooks", "collect")),
    ),
    None: ("/luthier/v1/whoami",),
}
"""What each part of the API is, as docs/keys.md has it: a route that is none of these fails. None: every key's."""


NAMING = (Endpoint.COMPLETIONS, Endpoint.SQL, Endpoint.MODELS)
"""Parts whose requests name the models that they reach."""


def part_of(path: str) -> Endpoint | None:
    """The longest that the path begins with."""
    found = {part: endpoint for endpoint, parts in PARTS.items() for part in parts if f"{path}/".startswith(f"{part}/")}
    assert found, f"{path} is of no part"
    return found[max(found, key=len)]


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path, with something in the place of each parameter."""
    found = []
    for path, operations in app.openapi()["paths"].items():
        filled = "/".join("x" if part.startswith("{") else part for part in path.split("/"))
        found += [(method.upper(), filled) for method in operations if path not in OPEN]
    return found


def refused(api: TestClient, key: dict[str, Any], method: str, path: str) -> bool:
    response = api.request(method, path, headers=bearer(key), follow_redirects=False)
    assert response.status_code < 500, response.text
    return response.status_code == 403 and f"Key {key['id']} is " in response.text


def test_there_are_routes(app: FastAPI) -> None:
    assert len(routes(app)) > 40
    assert all(isinstance(route, APIRoute) for route in app.routes if getattr(route, "path", "") == "/luthier/v1/keys")


def test_without_a_key(app: FastAPI) -> None:
    client = TestClient(app)
    open_to_all = [(method, path) for method, path in routes(app) if client.request(method, path).status_code != 401]
    assert open_to_all == []


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_key_for_one_endpoint(app: FastAPI, api: TestClient, endpoint: Endpoint) -> None:
    key = made(api, endpoints=[endpoint])
    for method, path in routes(app):
        assert refused(api, key, method, path) == (part_of(path) not in (endpoint, None)), (method, path)


def test_a_key_that_only_reads(app: FastAPI, api: TestClient) -> None:
    key = made(api, read_only=True)
    for method, path in routes(app):
        changes = method != "GET" and part_of(path) not in (Endpoint.COMPLETIONS, Endpoint.SQL)
        assert refused(api, key, method, path) == changes, (method, path)


def test_a_key_for_another_model(app: FastAPI, api: TestClient) -> None:
    key = made(api, models=["other"])
    named = [(method, path) for method, path in routes(app) if "/models/x" in path and "base-models" not in path]
    named += [("POST", "/luthier/v1/models?name=x"), ("POST", "/luthier/v1/models")]
    named += [("GET", "/luthier/v1/models/%22base-models%22"), ("PUT", "/luthier/v1/models/x/aliases/base-models")]
    changes = [(method, path) for method, path in routes(app) if method != "GET" and part_of(path) not in NAMING]
    named += [(method, path) for method, path in changes if not path.startswith("/luthier/v1/keys")]
    assert len(named) > 50
    assert [route for route in named if not refused(api, key, *route)] == []


def test_a_key_revokes_none_that_opens_more(api: TestClient) -> None:
    """It revokes itself, and what it might have made."""
    whole, support = (api.post("/luthier/v1/keys", json=asked).json() for asked in ({}, {"models": ["support"]}))
    alike = api.post("/luthier/v1/keys", json={"models": ["support"]}).json()
    own = bearer(support)
    assert api.delete(f"/luthier/v1/keys/{whole['id']}", headers=own).status_code == 403
    assert api.get("/luthier/v1/models", headers=bearer(whole)).status_code == 200
    assert api.delete(f"/luthier/v1/keys/{alike['id']}", headers=own).status_code == 200
    assert api.delete(f"/luthier/v1/keys/{support['id']}", headers=own).status_code == 200


def test_the_engines_own_door(app: FastAPI, api: TestClient, direct: Any) -> None:
    key = made(api, endpoints=["usage"])
    replica = TestClient(direct)
    for path in ("/v1/models", "/v1/models/tiny", "/m/tiny/v1/models"):
        assert replica.get(path, headers=bearer(key)).status_code in (403, 404)
    assert refused(replica, key, "GET", "/v1/models")
