"""What a door writes into the audit, when, and how much of a flood."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.errors import NotAllowed, Unavailable
from luthier.platform.access import Caller
from luthier.platform.audit import Entry
from luthier.serve.doors.auditing import (
    ALL_IN_MINUTE,
    EACH_IN_MINUTE,
    MAX_GROUPS,
    Audited,
    Auditor,
    entry_of,
    entry_of_row,
    source_of,
)
from tests.factories import ADMIN
from tests.waiting import until


def scope_of(method: str = "DELETE", path: str = "/luthier/v1/tables/t", **state: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [],
        "client": ("10.0.0.7", 1234),
        "state": {"id": "req_1", "caller": ADMIN, **state},
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "is_allowed"),
    [
        ("DELETE", "/luthier/v1/tables/t", 200, True),
        ("DELETE", "/luthier/v1/tables/t", 500, True),
        ("DELETE", "/luthier/v1/tables/t", 409, None),
        ("DELETE", "/luthier/v1/tables/t", 403, False),
        ("GET", "/luthier/v1/tables", 200, None),
        ("GET", "/luthier/v1/tables/t", 404, False),
        ("GET", "/luthier/v1/tables", 403, False),
        ("POST", "/v1/chat/completions", 200, None),
        ("POST", "/v1/chat/completions", 400, None),
        ("POST", "/v1/chat/completions", 429, None),
        ("POST", "/v1/chat/completions", 402, False),
        ("POST", "/v1/chat/completions", 404, False),
        ("POST", "/luthier/v1/sql", 200, None),
    ],
)
def test_changes_and_refusals(method: str, path: str, status: int, is_allowed: bool | None) -> None:
    entry = entry_of(scope_of(method, path), status)
    assert (entry and entry.is_allowed) == is_allowed


def test_of_unknown_callers_only_what_is_refused_for_it() -> None:
    assert entry_of(scope_of(caller=None), 401)
    assert entry_of(scope_of(caller=None), 404) is None
    assert entry_of(scope_of("GET", "/favicon.ico", caller=None), 404) is None


def test_a_dialect_that_says_400_for_what_is_hidden() -> None:
    entry = entry_of(scope_of("POST", "/api/v2/cortex/inference:complete", error="model_not_found"), 400)
    assert entry
    assert not entry.is_allowed


def test_a_statement_says_itself_that_it_changes() -> None:
    told = {"changes": True, "object": ("statement", "DROP MODEL m")}
    entry = entry_of(scope_of("POST", "/luthier/v1/sql", **told), 200)
    assert entry
    assert (entry.object_kind, entry.object_name) == ("statement", "DROP MODEL m")


def test_a_statement_whose_rows_have_told_it_tells_only_how_it_ended() -> None:
    told = {"changes": True, "has_told": True, "action": "cancel_job", "object": ("job", "ft_2")}
    scope = scope_of("POST", "/luthier/v1/sql", **told)
    rows = [entry_of_row(scope, number, "cancel_job", "job", f"ft_{number}") for number in (1, 2)]
    assert [(row.id, row.object_name, row.is_allowed, row.status) for row in rows] == [
        ("req_1-1", "ft_1", True, 200),
        ("req_1-2", "ft_2", True, 200),
    ]
    assert entry_of(scope, 200) is None
    for status, is_allowed in ((404, False), (503, True)):
        entry = entry_of(scope, status)
        assert entry
        assert (entry.id, entry.object_name, entry.is_allowed) == ("req_1", "ft_2", is_allowed)


@pytest.mark.parametrize(
    ("route", "given", "query", "told"),
    [
        ("/luthier/v1/models/{name:object}", {"name": "m"}, b"", ("model", "m")),
        ("/luthier/v1/credits/budgets/{kind}/{name:object}", {"kind": "role", "name": "R"}, b"", ("budget", "role R")),
        ("/v1/batches/{batch_id}/cancel", {"batch_id": "b"}, b"", ("batch", "b")),
        ("/luthier/v1/databases", {}, b"", ("database", "")),
        ("/luthier/v1/tables", {}, b"name=t&replace=true", ("table", "t")),
    ],
)
def test_the_object_is_what_the_path_names(
    route: str, given: dict[str, str], query: bytes, told: tuple[str, str]
) -> None:
    scope = {**scope_of(), "route": SimpleNamespace(path=route), "path_params": given, "query_string": query}
    entry = entry_of(scope, 403)
    assert entry
    assert (entry.object_kind, entry.object_name) == told


def test_the_source() -> None:
    scope = scope_of()
    scope["headers"] = [(b"x-forwarded-for", b"1.1.1.1, 203.0.113.9")]
    assert source_of(scope) == "10.0.0.7", "who is not on this machine says nothing about others"
    scope["client"] = ("127.0.0.1", 1)
    assert source_of(scope) == "203.0.113.9"
    scope["headers"] = []
    assert source_of(scope) == "127.0.0.1"


def answer(status: int, append: Any, **state: Any) -> list[dict[str, Any]]:
    """What goes out."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Audited(app, Auditor(append))(scope_of(**state), None, send))
    return sent


def test_it_is_written_before_the_answer_goes_out() -> None:
    kept: list[Entry] = []
    sent = answer(200, kept.extend)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    (entry,) = kept
    assert (entry.user, entry.action, entry.is_allowed) == ("admin", "DELETE /luthier/v1/tables/t", True)


@pytest.mark.parametrize("status", [200, 403])
def test_what_cannot_be_written_is_not_answered(status: int) -> None:
    def fail(_entries: list[Entry]) -> None:
        raise Unavailable("The registry does not answer.")

    sent = answer(status, fail)
    assert [message.get("status") for message in sent] == [503, None]
    assert b"The audit takes no entry just now" in sent[1]["body"]


def test_an_unforeseen_fault_in_a_change_is_written_down() -> None:
    kept: list[Entry] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        asyncio.run(Audited(app, Auditor(kept.extend))(scope_of(), None, None))
    assert [(entry.status, entry.is_allowed) for entry in kept] == [(500, True)]


def refusal(number: int, source: str = "10.0.0.7", **given: Any) -> Entry:
    fields = {"id": f"req_{number}", "time": number, "action": "complete", "status": 401, "is_allowed": False}
    return Entry(**{**fields, "source": source, **given})


def flooded(entries: list[Entry]) -> list[Entry]:
    """What is in the audit at the end of the minute."""
    kept: list[Entry] = []

    async def story() -> None:
        auditor = Auditor(kept.extend, minute_seconds=0.2)
        for entry in entries:
            await auditor.write(entry)
        await until(lambda: sum(entry.count for entry in kept) == len(entries))

    asyncio.run(story())
    return kept


def test_a_flood_from_one_source() -> None:
    kept = flooded([refusal(number) for number in range(1000)])
    assert len(kept) == EACH_IN_MINUTE + 1
    assert sum(entry.count for entry in kept) == 1000
    assert kept[-1].reason.startswith(f"{1000 - EACH_IN_MINUTE} more in a minute")


def test_a_flood_from_everywhere() -> None:
    kept = flooded([refusal(number, source=f"10.0.{number // 250}.{number % 250}") for number in range(5000)])
    assert len(kept) <= ALL_IN_MINUTE + MAX_GROUPS + 1
    assert sum(entry.count for entry in kept) == 5000


def test_unknown_callers_take_no_room_from_known_ones() -> None:
    known = [refusal(10_000 + n, account="main", user=f"u{n}", key=f"key_{n}", status=403) for n in range(50)]
    kept = flooded([*(refusal(number, source=str(number)) for number in range(1000)), *known])
    assert {entry.user for entry in kept if entry.account == "main"} == {f"u{n}" for n in range(50)}


def test_changes_are_never_counted_together() -> None:
    kept = flooded([refusal(number, is_allowed=True, status=200) for number in range(500)])
    assert [entry.count for entry in kept] == [1] * 500


def test_refused_by_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Entry] = []
    state = {
        "error": NotAllowed.code,
        "reason": "Key key_1 is read-only.",
        "caller": Caller(**ADMIN.identity, key="key_1"),
    }
    answer(403, kept.extend, **state)
    (entry,) = kept
    assert (entry.key, entry.is_allowed, entry.reason) == ("key_1", False, "Key key_1 is read-only.")
