"""The audit: its chain, what a walk along it finds, and that nothing in it can be changed."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier.platform.registry as registry_package
from luthier.errors import InvalidInput, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.audit import START, Anchor, AuditRow, Entry, Verdict, Walk, asked, hash_row, parse_anchor
from luthier.platform.registry.actor import RegistryActor, registry_client
from luthier.platform.registry.audit import Audit, Search
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.store import Store
from luthier.serve.dialects.native_audit import walk
from tests.factories import ADMIN, add_admin

OTHER = Caller(account="other", user="admin", role="ACCOUNTADMIN")
EMPTY = Caller(account="empty", user="ann", role="ACCOUNTADMIN")
"""Of an account whose audit begins with the test."""
UNASKED = {
    *("Guard.change", "Audit.append"),
    *("Access.add_admin_key", "Keys.session_of"),  # they tell the audit themselves
    *("Jobs.report", "Jobs.finish", "Jobs.fail", "Jobs._go_on", "Jobs._launch", "Jobs._note_waits", "Proofs.report"),
    *("Batches.claim", "Batches.report", "Batches.advance", "Batches.release"),
    *("Files.forget", "Retention.forget", "Artifacts._put_away"),
    *(
        "Ledger.append",
        "Credits.renew",
        "Credits.keep_leases",
        "Credits.end_holder",
        "Rates.renew",
        "Keys.used",
        "Outbox.delivered",
        "Outbox.forget",
    ),
    *("Databases.__init__", "Replicas._tell_base_models"),
    *("Jobs.submit", "Credits.balance"),  # what limits ran out of, or runs no more, is kept with it
}
"""What writes and is not asked for by a caller."""


def entry(number: int, **given: Any) -> Entry:
    fields: dict[str, Any] = {
        "account": EMPTY.account,
        "user": "ann",
        "action": "drop_model",
        "status": 200,
        "time": number,
    }
    return Entry(**{"id": f"req_{number}", "is_allowed": True, **fields, **given})


def chain(entries: list[Entry]) -> list[AuditRow]:
    rows, last = [], START
    for number, each in enumerate(entries, 1):
        last = hash_row(last, number, each)
        rows.append(AuditRow(**each.model_dump(), number=number, hash=last))
    return rows


def end_of(rows: list[AuditRow]) -> Anchor:
    return Anchor(count=rows[-1].number, hash=rows[-1].hash)


def walked(rows: list[AuditRow], head: Anchor, anchor: Anchor | None = None) -> Verdict:
    walking = Walk(anchor)
    walking.add(rows)
    return walking.verdict(head)


ROWS = chain([entry(number) for number in range(1, 9)])
TEXTS = {name for name, field in Entry.model_fields.items() if field.annotation is str}


def test_a_whole_chain() -> None:
    assert walked(ROWS, end_of(ROWS)) == Verdict(is_whole=True, anchor=end_of(ROWS))
    assert walked([], Anchor(count=0, hash=START)).is_whole
    assert walked(ROWS, end_of(ROWS), end_of(ROWS[:3])).is_whole


@settings(max_examples=200, print_blob=True)
@given(st.integers(0, 7), st.sampled_from(sorted(Entry.model_fields)))
def test_a_changed_row_is_named(at: int, field: str) -> None:
    was = getattr(ROWS[at], field)
    now = not was if isinstance(was, bool) else was + 1 if isinstance(was, int) else f"{was}x"
    rows = [*ROWS[:at], ROWS[at].model_copy(update={field: now}), *ROWS[at + 1 :]]
    verdict = walked(rows, end_of(ROWS))
    assert (verdict.is_whole, verdict.broken) == (False, at + 1)


@settings(max_examples=50, print_blob=True)
@given(st.permutations(range(8)))
def test_another_order_is_found(order: list[int]) -> None:
    verdict = walked([ROWS[at] for at in order], end_of(ROWS))
    assert verdict.is_whole == (order == sorted(order))


@pytest.mark.parametrize("at", range(7))
def test_a_removed_row_is_named(at: int) -> None:
    verdict = walked([*ROWS[:at], *ROWS[at + 1 :]], end_of(ROWS))
    assert (verdict.broken, verdict.reason) == (at + 1, f"row {at + 1} is missing")


def test_a_row_changed_together_with_its_hash_breaks_the_next() -> None:
    forged = ROWS[3].model_copy(update={"user": "bob"})
    forged = forged.model_copy(update={"hash": hash_row(ROWS[2].hash, 4, forged)})
    assert walked([*ROWS[:3], forged, *ROWS[4:]], end_of(ROWS)).broken == 5


def test_a_cut_tail_is_found_by_the_head_that_is_kept() -> None:
    verdict = walked(ROWS[:6], end_of(ROWS))
    assert (verdict.broken, verdict.reason) == (7, "2 rows are missing at the end")


def test_a_tail_cut_with_its_head_is_found_by_an_anchor_alone() -> None:
    assert walked(ROWS[:6], end_of(ROWS[:6])).is_whole
    verdict = walked(ROWS[:6], end_of(ROWS[:6]), end_of(ROWS))
    assert (verdict.is_whole, verdict.broken) == (False, 7)


def test_a_chain_made_anew_is_found_by_an_anchor_alone() -> None:
    anew = chain([entry(number, user="bob") for number in range(1, 9)])
    assert walked(anew, end_of(anew)).is_whole
    verdict = walked(anew, end_of(anew), end_of(ROWS[:5]))
    assert (verdict.is_whole, verdict.broken) == (False, 5)


@pytest.mark.parametrize("text", ["", "5", "x:" + START, "5:abc", "-1:" + START, "5:" + "G" * 64])
def test_no_anchor(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no anchor"):
        parse_anchor(text)
    assert parse_anchor(str(end_of(ROWS))) == end_of(ROWS)


# the verbs


def test_rows_are_appended_once_in_the_chain_of_their_account(registry: Registry) -> None:
    audit = registry.audit
    mixed = [entry(1), entry(2, account="other"), entry(3), entry(3), entry(4, account="")]
    assert audit.append(mixed) == 4
    assert audit.append(mixed) == 0
    assert [(row.number, row.id) for row in audit.show(EMPTY, Search())] == [(2, "req_3"), (1, "req_1")]
    assert [row.id for row in audit.show(OTHER, Search())] == ["req_2"]
    assert [row.id for row in audit.show(ADMIN, Search(unknown=True))] == ["req_4"]
    assert walk(audit, EMPTY, None, False).anchor.count == 2


def test_a_search(registry: Registry) -> None:
    registry.audit.append([entry(number, user="ab"[number % 2], action=f"a{number % 3}") for number in range(1, 13)])

    def found(**given: Any) -> list[int]:
        return [row.number for row in registry.audit.show(EMPTY, Search(**given))]

    assert found(since=3, until=6) == [5, 4, 3]
    assert found(user="a") == [12, 10, 8, 6, 4, 2]
    assert found(user="a", action="a0") == [12, 6]
    assert found(limit=3) == [12, 11, 10]
    assert found(limit=3, before=10) == [9, 8, 7]


@pytest.mark.parametrize("verb", ["show", "page", "head"])
def test_it_is_the_admins(registry: Registry, verb: str) -> None:
    caller = Caller(account="main", user="ann", role="ANALYST")
    given: dict[str, list[Any]] = {"show": [Search()], "page": [0], "head": []}
    with pytest.raises(NotAllowed, match="Role ACCOUNTADMIN is needed to read the audit"):
        getattr(registry.audit, verb)(caller, *given[verb])


@pytest.mark.parametrize("verb", ["show", "page", "head"])
def test_of_who_is_unknown_it_is_the_operators(registry: Registry, verb: str) -> None:
    given: dict[str, list[Any]] = {"show": [Search(unknown=True)], "page": [0, True], "head": [True]}
    with pytest.raises(NotAllowed, match="Only ACCOUNTADMIN of the account that runs the platform"):
        getattr(registry.audit, verb)(OTHER, *given[verb])
    getattr(registry.audit, verb)(ADMIN, *given[verb])


@pytest.mark.parametrize("statement", ["UPDATE audit SET user = 'x'", "DELETE FROM audit", "DELETE FROM audit WHERE 1"])
def test_the_store_refuses_changes(registry: Registry, settings: Settings, statement: str) -> None:
    registry.audit.append([entry(1)])
    store = Store(settings.store_url)
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), store.transaction() as tx:
        tx.execute(sa.text(statement))
    assert walk(registry.audit, EMPTY, None, False).is_whole


FORGED = {
    "edited": ("UPDATE audit SET reason = 'x' WHERE number = 700", 700),
    "removed": ("DELETE FROM audit WHERE number = 2345", 2345),
    "cut": ("DELETE FROM audit WHERE number > 2400", 2401),
    "emptied": ("DELETE FROM audit", 1),
    "put in": (
        "INSERT INTO audit SELECT account, 2501, 'new', time, user, role, key, action, object_kind, object_name,"
        " source, reason, is_allowed, status, count, hash FROM audit WHERE number = 2500",
        None,
    ),
}


@pytest.mark.parametrize("how", FORGED)
def test_who_takes_the_triggers_away_is_found(registry: Registry, settings: Settings, how: str) -> None:
    registry.audit.append([entry(number) for number in range(1, 2501)])
    assert walk(registry.audit, EMPTY, None, False).anchor.count == 2500
    statement, broken = FORGED[how]
    with Store(settings.store_url).transaction() as tx:
        for verb in ("update", "delete"):
            tx.execute(sa.text(f"DROP TRIGGER audit_no_{verb}"))
        tx.execute(sa.text(statement))
    verdict = walk(registry.audit, EMPTY, None, False)
    assert (verdict.is_whole, verdict.broken) == (broken is None, broken)
    if broken is None:  # behind the end that is kept: the next entry meets it
        with pytest.raises(sa.exc.IntegrityError):
            registry.audit.append([entry(2501)])


def test_the_actor_is_told_with_a_call_what_the_audit_is_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = object.__new__(RegistryActor)
    actor._registry = registry  # as its constructor has it, without Ray
    remote = SimpleNamespace(call=SimpleNamespace(remote=actor.call))
    monkeypatch.setattr("luthier.platform.registry.actor._actor", lambda: remote)
    monkeypatch.setattr("luthier.platform.registry.actor.ray.get", lambda answer, timeout: answer)
    token = asked.set(lambda: entry(1, account=ADMIN.account, user=ADMIN.user))
    registry_client().roles.create(ADMIN, "R")
    asked.reset(token)
    registry_client().roles.create(ADMIN, "S")
    assert [row.id for row in registry.audit.show(ADMIN, Search(action="drop_model"))] == ["req_1"]


def test_what_is_refused_leaves_neither_a_change_nor_a_row(registry: Registry) -> None:
    token = asked.set(lambda: entry(1, account="main"))
    with pytest.raises(NotAllowed):
        registry.roles.create(Caller(account="main", user="ann", role="ANALYST"), "R")
    registry.roles.create(ADMIN, "S")
    asked.reset(token)
    assert registry.audit.show(ADMIN, Search(action="drop_model")) == [], (
        "nor is what another one changes in between taken for it"
    )


def test_the_first_key_is_in_it_once(registry: Registry) -> None:
    add_admin(registry)
    (row,) = registry.audit.show(ADMIN, Search())
    assert (row.user, row.action, row.object_kind) == ("admin", "create_key", "key")
    assert [key.id for key in registry.keys.show(ADMIN)] == [row.object_name]


def test_each_verb_that_writes_tells_the_audit() -> None:
    """By its source: whoever asks for a change opens `guard.change`, and what the platform does by itself is listed."""
    found = set()
    for file in Path(registry_package.__file__).parent.glob("*.py"):
        for part in (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)):
            for verb in (node for node in part.body if isinstance(node, ast.FunctionDef)):
                for call in (node for node in ast.walk(verb) if isinstance(node, ast.Call)):
                    if isinstance(call.func, ast.Attribute) and call.func.attr == "transaction":
                        found.add(f"{part.name}.{verb.name}")
    assert found == UNASKED


def test_there_is_no_verb_that_changes_a_row() -> None:
    assert {name for name in vars(Audit) if not name.startswith("_")} == {"append", "show", "page", "head"}
