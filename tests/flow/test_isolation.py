"""Every route and artifact of an account, tried with another account's key and with a powerless role's.

What belongs to the first is answered like what is not there: the same status and the same text. A route that
has no line here fails.
"""

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from luthier.platform.privileges import Action
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from tests.factories import ADMIN
from tests.flow.first_account import (  # noqa: F401 - fixtures
    BY_SQL,
    ELSEWHERE,
    MISSING,
    Names,
    check,
    is_named,
    make_first,
    make_other,
    note_asked,
    rows_of,
)
from tests.flow.isolation import KNOWN, V1, Try
from tests.flow.people import join  # noqa: F401 - a fixture


def routes(app: FastAPI) -> set[tuple[str, str]]:
    found = [route for route in app.routes if isinstance(route, APIRoute)]
    return {(method, route.path) for route in found for method in route.methods}


def test_every_route_is_known(app: FastAPI) -> None:
    assert routes(app) == set(KNOWN)
    beside = {route.path for route in app.routes if not isinstance(route, APIRoute)}  # type: ignore[attr-defined]
    assert beside == {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}


def test_no_route_tells_or_gives_what_is_the_firsts(
    other: TestClient,
    first: Names,
    settings: Settings,
    asked: set[Action],
) -> None:
    store = Store(settings.store_url, migrate=False)
    before = rows_of(store)
    tries = [(method, path, each) for (method, path), tries in KNOWN.items() for each in tries]
    for method, path, each in sorted(tries, key=lambda each: "{" in each[1] or is_named(each[2])):
        theirs, none = send(other, method, path, each, first), send(other, method, path, each, MISSING)
        check(f"{method} {path} {each}", theirs, none, first, is_same=False)
        if (
            any(word in path for word in ("{", "/collect"))
            and not any(word in path for word in ("{kind}", "{parameter}"))
            and not each.is_open
        ):
            assert theirs[0] >= 400 or (theirs[1] == none[1] and "history" in path), f"{method} {path}: {theirs}"
    assert before <= rows_of(store), "nothing of the first has changed"
    if other.get(f"{V1}/whoami").json()["account"] == ADMIN.account:  # another's has nothing to decide on
        assert asked | BY_SQL | ELSEWHERE == set(Action)


def test_its_owner_is_answered(api: TestClient, first: Names) -> None:
    """Else a refusal of what is read would prove nothing."""
    read = [(path, tries[0]) for (method, path), tries in KNOWN.items() if method == "GET"]
    told = {path: send(api, "GET", path, each, first) for path, each in read}
    assert {path: answer for path, answer in told.items() if answer[0] != 200} == {}


def test_without_a_key_nothing_is_answered(api: TestClient, app: FastAPI, first: Names) -> None:
    nobody = TestClient(app)
    nobody.portal = api.portal
    for (method, path), tries in KNOWN.items():
        for each in tries:
            status, text = send(nobody, method, path, each, first)
            if path not in ("/healthz", "/readyz"):
                assert status == 401, f"{method} {path}: {status} {text}"


def send(client: TestClient, method: str, path: str, how: Try, names: Names) -> tuple[int, str]:
    """Status, and the text without the names that were asked for."""
    body, params, path = names.put(how.body), names.put(how.params), names.path(path)
    sent = {"json": body} if body is not None and how.files is None else {}
    sent = {"data": body, "files": how.files} if how.files is not None else sent
    sent |= {"content": how.content} if how.content is not None else {}
    response = client.request(method, path, params=params, **sent)
    return response.status_code, names.taken_out(response.text, f"{path} {params} {body}")
