"""A door that is ended before it has told the audit: what the registry changed is in it all the same."""

import pytest
from starlette.testclient import TestClient

from luthier.platform.audit import Entry
from luthier.platform.registry.audit import MAX_PAGE, Search
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN
from tests.flow.test_isolation import KNOWN, STATEMENTS, V1, Names, Try, first, send  # noqa: F401 - a fixture

NOTHING_CHANGED = {"collect", "warm"}
"""In the registry's store, at least: these load, or put away, files."""
CHANGED = {"create_job", "create_key", "drop_table", "upload_file", "create_batch", "sql", "promote"}
CHANGED |= {"create_role", "grant", "create_database", "create_share", "create_user", "set_parameter"}


@pytest.fixture
def told(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    """What the door would have said."""
    said: list[Entry] = []
    monkeypatch.setattr(api.app.state.auditor, "_append", said.extend)  # type: ignore[attr-defined]
    return said


def test_each_change_is_in_the_audit_with_itself(
    api: TestClient,
    first: Names,  # noqa: F811
    told: list[Entry],
    registry: Registry,
) -> None:
    asked = [(*route, each) for route, tries in KNOWN.items() for each in tries if route[0] != "GET"]
    changing = [each for each in asked if "dry_run" not in each[2].params]
    for method, path, each in changing:
        if method != "DELETE":
            send(api, method, path, each, first)
    for statement in STATEMENTS:
        send(api, "POST", f"{V1}/sql", Try({"statement": statement}), first)
    for method, path, each in changing:
        if method == "DELETE":
            send(api, method, path, each, first)
    kept = {row.id: row for row in registry.audit.show(ADMIN, Search(limit=MAX_PAGE))}
    done = [entry for entry in told if entry.is_allowed and entry.status < 400]
    assert {entry.action for entry in done if entry.id not in kept} <= NOTHING_CHANGED
    assert {entry.action for entry in done if entry.id in kept} >= CHANGED
    for entry in done:
        if row := kept.get(entry.id):
            same = ("user", "role", "key", "action", "object_kind", "object_name", "source", "is_allowed", "status")
            assert [getattr(row, name) for name in same] == [getattr(entry, name) for name in same]
    refused = {entry.id for entry in told if not entry.is_allowed}
    assert refused.isdisjoint(kept), "of what was refused the door alone tells"
