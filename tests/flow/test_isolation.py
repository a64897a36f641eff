"""Every route, statement and artifact of an account, tried with another account's key and with a powerless role's.

What belongs to the first is answered like what is not there: the same status and the same text. A route that
has no line here fails.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from tests.flow.conftest import CHAT, create, upload
from tests.flow.isolation import CHATTED, KNOWN, LINE, STATEMENTS, V1, WORDS, Try
from tests.flow.people import Join, join, run_all  # noqa: F401 - a fixture


@dataclass(frozen=True)
class Names:
    """Of objects, by what stands for them."""

    model: str
    table: str
    view: str
    job: str
    file_id: str
    batch: str
    user: str
    role: str
    key: str
    place: str
    """A database, with a schema of the same name; and a schema of it in the default database."""
    webhook: str = "wh_0"
    share: str = "MYSECRETSHARE"

    def put(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.format_map(vars(self)) if "{" in value else value
        if isinstance(value, dict):
            return {key: self.put(each) for key, each in value.items()}
        return [self.put(each) for each in value] if isinstance(value, list) else value

    def path(self, route: str) -> str:
        own = self.user if "/users/" in route else self.role if "/roles/" in route else self.model
        own = self.view if "/views/" in route else own
        own = self.table if "/tables/" in route else self.share if "/shares/" in route else own
        own = self.place if "/databases/" in route or "/schemas/" in route else own
        named = {"name:object": own, "model:path": self.model, "name:path": "tiny", "job_id": self.job}
        named |= {"file_id": self.file_id, "batch_id": self.batch, "file": "training_results.csv", "alias": "a"}
        named |= {"webhook_id": self.webhook}
        named |= {"key_id": self.key, "kind": "completions", "parameter": "CORTEX_MODELS_ALLOWLIST"}
        named |= {"account": "tenant"}
        for key, value in named.items():
            route = route.replace(f"{{{key}}}", value)
        assert "{" not in route, route
        return route

    def taken_out(self, text: str) -> str:
        """A text that is the same for the objects of two accounts if nothing but their names differs."""
        for key, value in vars(self).items():
            for spelling in (value, value.upper()):
                text = text.replace(spelling, f"<{key}>")
        return re.sub("req_[0-9a-f]{32}", "<request>", text)


MISSING = Names(
    model="othermodel",
    table="othertable",
    view="otherview",
    job="ft_00000000-0000-4000-8000-000000000000",
    file_id="file-00000000",
    batch="batch_00000000",
    user="OTHERUSER",
    role="OTHERROLE",
    key="key_0",
    share="OTHERSHARE",
    place="OTHERPLACE",
)
SECRETS = ("mysecret", "MYSECRET", "training_results", "ANN", "0.75")
"""None of it may come in an answer; names that were asked for are taken out before."""


@pytest.fixture
def first(api: TestClient, train: Callable[[str], Path]) -> Names:
    """An account that has one of everything."""
    upload(api, "mysecrettable", WORDS)
    job = create(api, model="mysecretmodel", training_data="SELECT * FROM mysecrettable").json()["id"]
    train(job)
    running = create(api, model="mysecretnext", training_data="SELECT * FROM mysecrettable")
    assert running.status_code == 201
    file = api.post("/v1/files", data={"purpose": "batch"}, files={"file": ("mysecret.jsonl", LINE)}).json()["id"]
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    batch = api.post("/v1/batches", json=body).json()["id"]
    assert api.post(CHAT, json=Names.put(_names(file, batch, job, ""), CHATTED.body)).status_code == 200
    run_all(api, "CREATE USER mysecretuser", "CREATE ROLE mysecretrole", "GRANT ROLE mysecretrole TO USER mysecretuser")
    place = ("DATABASE luthier", "SCHEMA luthier.public", "MODEL mysecretmodel")
    run_all(api, "CREATE SHARE mysecretshare", *(f"GRANT USAGE ON {each} TO SHARE mysecretshare" for each in place))
    run_all(api, "ALTER SHARE mysecretshare ADD ACCOUNTS = mysecretpartner")
    run_all(api, "CREATE VIEW mysecretview AS SELECT prompt FROM mysecrettable")
    run_all(api, "CREATE DATABASE mysecretplace", "CREATE SCHEMA mysecretplace.mysecretplace")
    run_all(api, "CREATE SCHEMA mysecretplace")
    key = api.post(f"{V1}/keys", json={"name": "mysecretkey"}).json()["id"]
    webhook = api.post(f"{V1}/webhooks", json={"url": "https://93.184.215.14/mysecrethook"}).json()["id"]
    return replace(_names(file, batch, job, key), webhook=webhook)


def _names(file: str, batch: str, job: str, key: str) -> Names:
    return Names(
        *("mysecretmodel", "mysecrettable", "mysecretview", job),
        file,
        batch,
        "MYSECRETUSER",
        "MYSECRETROLE",
        key,
        "MYSECRETPLACE",
    )


@pytest.fixture(params=["another account", "a powerless role"])
def other(request: pytest.FixtureRequest, first: Names, join: Join) -> TestClient:  # noqa: F811
    return join("ACCOUNTADMIN", account="tenant") if request.param == "another account" else join("PUBLIC", "NOBODY")


def routes(app: FastAPI) -> set[tuple[str, str]]:
    found = [route for route in app.routes if isinstance(route, APIRoute)]
    return {(method, route.path) for route in found for method in route.methods}


def test_every_route_is_known(app: FastAPI) -> None:
    assert routes(app) == set(KNOWN)
    beside = {route.path for route in app.routes if not isinstance(route, APIRoute)}  # type: ignore[attr-defined]
    assert beside == {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}


def test_no_route_tells_or_gives_what_is_the_firsts(api: TestClient, other: TestClient, first: Names) -> None:
    before = state(api)
    for (method, path), tries in KNOWN.items():
        for each in tries:
            theirs, none = send(other, method, path, each, first), send(other, method, path, each, MISSING)
            check(f"{method} {path} {each}", theirs, none, first)
            if (
                any(word in path for word in ("{", "/collect"))
                and not any(word in path for word in ("{kind}", "{parameter}"))
                and not each.is_open
            ):
                assert theirs[0] >= 400 or (theirs[1] == none[1] and "history" in path), f"{method} {path}: {theirs}"
    assert state(api) == before, "nothing of the first has changed"


def test_no_statement_tells_or_gives_what_is_the_firsts(api: TestClient, other: TestClient, first: Names) -> None:
    before = state(api)
    for statement in STATEMENTS:
        route = Try({"statement": statement})
        theirs, none = (send(other, "POST", f"{V1}/sql", route, names) for names in (first, MISSING))
        check(statement, theirs, none, first)
        if "{" in statement and not any(word in statement for word in ("TRY_", " AI_")):
            assert theirs[0] >= 400, f"{statement}: {theirs}"
    assert state(api) == before, "nothing of the first has changed"


def test_without_a_key_nothing_is_answered(api: TestClient, app: FastAPI, first: Names) -> None:
    nobody = TestClient(app)
    nobody.portal = api.portal
    for (method, path), tries in KNOWN.items():
        for each in tries:
            status, text = send(nobody, method, path, each, first)
            if path not in ("/healthz", "/readyz"):
                assert status == 401, f"{method} {path}: {status} {text}"


def send(client: TestClient, method: str, path: str, how: Try, names: Names) -> tuple[int, str]:
    """Status, and the text without the names."""
    body = names.put(how.body)
    sent = {"json": body} if body is not None and how.files is None else {}
    sent = {"data": body, "files": how.files} if how.files is not None else sent
    sent |= {"content": how.content} if how.content is not None else {}
    response = client.request(method, names.path(path), params=names.put(how.params), **sent)
    return response.status_code, names.taken_out(response.text)


def check(what: str, theirs: tuple[int, str], none: tuple[int, str], first: Names) -> None:
    status, text = theirs
    assert status < 500, f"{what}: {status} {text}"
    for secret in (*SECRETS, *vars(first).values()):
        assert secret not in text, f"{what} tells {secret!r}: {text}"
    assert status == none[0], f"{what}: {theirs} and {none}"
    if status >= 400:
        assert text == none[1], what


def state(api: TestClient) -> list[Any]:
    """All that the first account sees of its own."""
    paths = ("jobs", "tables", "views", "databases", "schemas", "shares", "models", "roles", "users")
    paths += ("usage/completions", "parameters")
    told = [api.get(f"{V1}/{path}").json() for path in paths]
    return [*told, api.get(f"{V1}/models/mysecretmodel/history").json(), api.get("/v1/files").json()["data"][-1]]
