"""A door that is ended before it has told the audit: what the registry changed is in it all the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from luthier.platform.access import Caller
from luthier.platform.audit import Entry
from luthier.platform.keys import endpoint_of, is_change
from luthier.platform.registry.audit import MAX_PAGE, Search
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN
from tests.flow.conftest import create
from tests.flow.first_account import Names, make_first  # noqa: F401 - a fixture
from tests.flow.isolation import KNOWN, V1, Try
from tests.flow.isolation_statements import CHANGES, READINGS
from tests.flow.people import Join, join  # noqa: F401 - a fixture
from tests.flow.test_import import send as send_adapter
from tests.flow.test_isolation import send

TENANT = Caller(account="tenant", user="admin", role="ACCOUNTADMIN")
NOTHING_CHANGED = {"collect", "warm"}
"""In the registry's store, at least: these load, or put away, files."""
ELSEWHERE = {"replicate_model", "cancel_batch"}
"""In test_replication.py, as it takes two regions; a batch would have to wait."""
LATER = {
    *("set_canary", "end_canary", "drop_alias", "rollback", "import_model", "drop_model", "delete_model"),
    *("top_up", "limit", "set_alert", "set_budget", "drop_budget", "add_webhook", "cancel_job"),
    *("import_database", "drop_shared_database", "remove_share_account", "drop_share"),
    *("drop_schema", "drop_database", "drop_role", "drop_user", "make_view", "drop_view"),
}
"""Each is done by the second test."""


@pytest.fixture
def told(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """What the door would have said."""
    said: list[Entry] = []
    monkeypatch.setattr(api.app.state.auditor, "_append", said.extend)  # type: ignore[attr-defined]
    return said


def test_each_change_is_in_the_audit_with_itself(
    api: TestClient,
    first: Names,
    told: list[Entry],
    registry: Registry,
) -> None:
    asked = [(*route, each) for route, tries in KNOWN.items() for each in tries if route[0] != "GET"]
    changing = [each for each in asked if "dry_run" not in each[2].params]
    for method, path, each in changing:
        if method != "DELETE":
            send(api, method, path, each, first)
    for statement in (*READINGS, *CHANGES):
        send(api, "POST", f"{V1}/sql", Try({"statement": statement}), first)
    for method, path, each in changing:
        if method == "DELETE":
            send(api, method, path, each, first)
    kept = {row.id: row for row in registry.audit.show(ADMIN, Search(limit=MAX_PAGE))}
    done = [entry for entry in told if entry.is_allowed and entry.status < 400]
    assert {entry.action for entry in done if entry.id not in kept} <= NOTHING_CHANGED
    assert {entry.action for entry in done if entry.action not in NOTHING_CHANGED} == {
        *(changing_routes(api) - NOTHING_CHANGED - LATER - ELSEWHERE),
        "sql",
    }
    assert all(entry.object_name for entry in done if entry.action != "collect")
    for entry in done:
        if row := kept.get(entry.id):
            same = ("user", "role", "key", "action", "object_kind", "object_name", "source", "is_allowed", "status")
            assert [getattr(row, name) for name in same] == [getattr(entry, name) for name in same]
    refused = {entry.id for entry in told if not entry.is_allowed}
    assert refused.isdisjoint(kept), "of what was refused the door alone tells"


def test_what_is_done_to_what_is_there(
    api: TestClient,
    first: Names,
    join: Join,  # noqa: F811
    registry: Registry,
    adapter: Path,
    train: Callable[[str], Path],
    told: list[Entry],
) -> None:
    tenant, model = join("ACCOUNTADMIN", account="tenant"), f"{V1}/models/{first.model}"
    for job in api.get(f"{V1}/jobs").json()["jobs"]:
        api.post(f"{V1}/jobs/{job['id']}/cancel")  # one stands in the way of the others
    words, again = "SELECT * FROM mysecrettable", {"new_version": True, "promote": False}
    train(create(api, model=first.model, training_data=words, options=again).json()["id"])
    for name in ("gone", "gone2"):
        train(create(api, model=name, training_data=words).json()["id"])
    waiting = create(api, model="next", training_data=words).json()["id"]
    told.clear()
    share = f"{V1}/shares/{first.share}/accounts"
    answers = [
        *(api.put(f"{model}/canary", json={"version": 2, "share": 5.0, "warm": False}), api.delete(f"{model}/canary")),
        *(api.put(f"{model}/aliases/a", json={"version": 2}), api.delete(f"{model}/aliases/a")),
        api.post(f"{model}/promote", json={"version": 2, "warm": False}),
        api.post(f"{model}/rollback", json={"warm": False}),
        *(api.delete(f"{V1}/models/gone"), api.delete("/v1/models/gone2"), send_adapter(api, adapter)),
        api.post(f"{V1}/jobs/{waiting}/cancel"),
        api.post(f"{V1}/credits/topups", json={"credits": "100"}, headers={"Idempotency-Key": "once"}),
        *(api.put(f"{V1}/credits/limit", json={}), api.put(f"{V1}/credits/alert", json={"credits": "1"})),
        api.put(f"{V1}/credits/budgets/role/PUBLIC", json={"credits": "1"}),
        api.delete(f"{V1}/credits/budgets/role/PUBLIC"),
        api.post(f"{V1}/webhooks", json={"url": "https://93.184.215.14/hook"}),
        api.post(share, json={"accounts": ["tenant"]}),
        tenant.put(f"{V1}/shared-databases/theirs", json={"provider": "main", "share": first.share}),
        tenant.delete(f"{V1}/shared-databases/theirs"),
        *(api.delete(f"{share}/tenant"), api.delete(f"{V1}/shares/{first.share}")),
        api.post(f"{V1}/views", json={"name": "seen", "query": words}),
        *(api.delete(f"{V1}/views/seen"), api.delete(f"{V1}/schemas/{first.place}")),
        api.delete(f"{V1}/databases/{first.place}", params={"cascade": "true"}),
        *(api.delete(f"{V1}/roles/{first.role}"), api.delete(f"{V1}/users/{first.user}")),
    ]
    rows = [*registry.audit.show(ADMIN, Search(limit=MAX_PAGE)), *registry.audit.show(TENANT, Search(limit=MAX_PAGE))]
    kept = {row.id: row for row in rows}
    for answer in answers:
        assert answer.status_code < 400, f"{answer.request.url}: {answer.text}"
        assert kept[answer.headers["x-request-id"]].object_name
    assert {entry.action for entry in told} - {"promote", "set_alias", "add_share_accounts"} == LATER


def changing_routes(api: TestClient) -> set[str]:
    """Their names."""
    found = [route for route in api.app.routes if isinstance(route, APIRoute)]  # type: ignore[attr-defined]
    changing = [route for route in found if any(is_change(method, endpoint_of(route.path)) for method in route.methods)]
    return {route.endpoint.__name__ for route in changing}


def test_each_row_of_a_statement_is_a_row_of_the_audit(api: TestClient, faq: str, registry: Registry) -> None:
    named = "SELECT 'm' || number AS name FROM (VALUES (1), (2), (3)) AS t (number)"
    words = "SELECT question AS prompt, answer AS completion FROM faq"
    made = f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CREATE', name, 'tiny', '{words}') FROM ({named})"
    answer = api.post(f"{V1}/sql", json={"statement": made})
    jobs = [row[0] for row in answer.json()["rows"]]
    listed = ", ".join(f"('{job}')" for job in [*jobs, jobs[0], "ft_nobodys"])
    cancelled = f"SELECT SNOWFLAKE.CORTEX.FINETUNE('CANCEL', id) FROM (VALUES {listed}) AS t (id)"
    refused = api.post(f"{V1}/sql", json={"statement": cancelled})
    assert refused.status_code == 404
    rows = registry.audit.show(ADMIN, Search())[::-1]
    asked, then = (each.headers["x-request-id"] for each in (answer, refused))
    told = [(row.action, row.object_kind, row.object_name, row.id, row.is_allowed) for row in rows]
    assert sorted(told[2:5]) == sorted(("create_job", "job", job, f"{asked}-{at}", True) for at, job in enumerate(jobs))
    assert told[5:] == [
        *(("cancel_job", "job", job, f"{then}-{at}", True) for at, job in enumerate([*jobs, jobs[0]])),
        ("cancel_job", "job", "ft_nobodys", then, False),
    ]
