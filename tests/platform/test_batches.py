"""Batches in the registry: who holds one, what is billed, and the moves between states."""

from typing import Any

import pytest

from luthier.errors import Conflict
from luthier.platform.batches import MOVES, Batch, BatchStatus, Report, Step, check_move
from luthier.platform.files import Purpose, StoredFile
from luthier.platform.registry.batches import LEASE_MS
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from tests.factories import ADMIN, add_admin, ledger_of, make_record
from tests.fakes import Launcher

pytestmark = pytest.mark.stores

FINAL = {"completed", "failed", "expired", "cancelled"}


class Millis:
    def __init__(self) -> None:
        self.now = 5_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Millis:
    return Millis()


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, clock: Millis) -> Registry:
    registry = Registry(settings, launcher, clock)
    add_admin(registry)
    registry.files.create(make_file())
    return registry


def make_file(file_id: str = "file-1", **given: Any) -> StoredFile:
    fields: dict[str, Any] = {
        "id": file_id,
        "account": ADMIN.account,
        "owner": ADMIN.user,
        "role": ADMIN.role,
        "filename": "in.jsonl",
        "purpose": Purpose.BATCH,
        "size": 1,
        "sha256": "ab" * 32,
        "path": "nowhere",
        "created_on": 1_000,
    }
    return StoredFile(**{**fields, **given})


def make_batch(batch_id: str = "batch_1", **given: Any) -> Batch:
    fields: dict[str, Any] = {
        "id": batch_id,
        "account": ADMIN.account,
        "owner": ADMIN.user,
        "role": ADMIN.role,
        "endpoint": "/v1/completions",
        "input_file_id": "file-1",
        "created_on": 1_000,
        "expires_on": 10**15,
    }
    return Batch(**{**fields, **given})


def test_the_final_states() -> None:
    assert {status.value for status in BatchStatus if status.is_final} == FINAL
    for status in BatchStatus:
        for to in BatchStatus:
            if to not in MOVES.get(status, ()):
                with pytest.raises(Conflict, match=f"is {status.value} and cannot become {to.value}"):
                    check_move("batch_1", status, to)


def test_submitted_twice(registry: Registry) -> None:
    first = registry.batches.submit(make_batch())
    registry.batches.claim("one")
    again = registry.batches.submit(make_batch(created_on=2_000))
    assert (again.created_on, again.attempt) == (first.created_on, 1)
    with pytest.raises(Conflict, match="Idempotency-Key"):
        registry.batches.submit(make_batch(metadata={"other": "1"}))


def test_a_batch_is_held_by_one(registry: Registry, clock: Millis) -> None:
    registry.batches.submit(make_batch())
    registry.batches.submit(make_batch("batch_2"))
    first = registry.batches.claim("one")
    assert first == registry.batches.claim("one")
    second = registry.batches.claim("two")
    assert first
    assert second
    assert [(first.id, first.attempt), (second.id, second.attempt)] == [("batch_1", 1), ("batch_2", 1)]
    assert registry.batches.claim("three") is None
    clock.now += LEASE_MS - 1
    registry.batches.report("batch_1", "one", Report(completed=0, failed=0))
    clock.now += 1
    taken = registry.batches.claim("three")
    assert taken
    assert (taken.id, taken.attempt) == ("batch_2", 2)


def test_a_batch_that_is_let_go_is_taken_at_once(registry: Registry) -> None:
    registry.batches.submit(make_batch())
    registry.batches.claim("one")
    registry.batches.release("batch_1", "two")
    assert registry.batches.claim("two") is None
    for _ in range(2):
        registry.batches.release("batch_1", "one")
    taken = registry.batches.claim("two")
    assert taken
    assert taken.attempt == 2
    registry.batches.release("batch_1", "one")
    with pytest.raises(Conflict, match="another process"):
        registry.batches.report("batch_1", "one", Report(completed=0, failed=0))
    registry.batches.report("batch_1", "two", Report(completed=0, failed=0))


def test_no_account_keeps_the_others_waiting(registry: Registry) -> None:
    registry.access.add_admin_key("other", "hash", "lt_oth")
    registry.files.create(make_file("file-2", account="other"))
    for at in range(3):
        registry.batches.submit(make_batch(f"batch_{at}"))
    registry.batches.submit(make_batch("batch_3", account="other", input_file_id="file-2"))
    claimed = [registry.batches.claim(f"holder {at}") for at in range(4)]
    assert [batch and batch.id for batch in claimed] == ["batch_0", "batch_3", "batch_1", "batch_2"]


def test_an_account_that_is_full_is_passed_over(registry: Registry) -> None:
    registry.access.add_admin_key("other", "hash", "lt_oth")
    registry.files.create(make_file("file-2", account="other"))
    registry.batches.submit(make_batch("batch_0"))
    registry.batches.submit(make_batch("batch_1", account="other", input_file_id="file-2"))
    full = [make_batch("").account]
    claimed = [registry.batches.claim(f"holder {at}", full) for at in range(2)]
    assert [batch and batch.id for batch in claimed] == ["batch_1", None]


def test_who_lost_a_batch_bills_nothing(registry: Registry, clock: Millis) -> None:
    registry.batches.submit(make_batch())
    registry.batches.claim("one")
    clock.now += LEASE_MS
    registry.batches.claim("two")
    late, own = make_record("batch_1-1", completion_tokens=7), make_record("batch_1-1", completion_tokens=9)
    for call in (
        lambda: registry.batches.report("batch_1", "one", Report(completed=1, failed=0, usage=[late])),
        lambda: registry.batches.advance("batch_1", "one", Step(to=BatchStatus.IN_PROGRESS, total=3)),
    ):
        with pytest.raises(Conflict, match="another process"):
            call()
    for _ in range(2):
        batch = registry.batches.report("batch_1", "two", Report(completed=1, failed=0, usage=[own]))
    assert (batch.status, batch.counts.completed) == (BatchStatus.VALIDATING, 1)
    assert ledger_of(registry) == [own]


def test_steps_leave_their_times_and_files(registry: Registry, clock: Millis) -> None:
    registry.batches.submit(make_batch())
    registry.batches.claim("one")
    clock.now = 6_000
    for _ in range(2):
        batch = registry.batches.advance("batch_1", "one", Step(to=BatchStatus.IN_PROGRESS, total=3))
    assert (batch.counts.total, batch.reached) == (3, {BatchStatus.IN_PROGRESS: 6_000})
    registry.batches.advance("batch_1", "one", Step(to=BatchStatus.FINALIZING))
    with pytest.raises(Conflict, match="finalizing"):
        registry.batches.cancel(ADMIN, "batch_1")
    output = make_file("file-out", purpose=Purpose.BATCH_OUTPUT)
    for _ in range(2):
        batch = registry.batches.advance("batch_1", "one", Step(to=BatchStatus.COMPLETED, output=output))
    assert (batch.output_file_id, batch.error_file_id) == ("file-out", None)
    assert registry.files.get(ADMIN, "file-out") == output
    clock.now += 10 * LEASE_MS
    assert registry.batches.claim("two") is None


def test_the_input_of_a_batch_stays_until_its_end(registry: Registry, clock: Millis) -> None:
    registry.files.create(make_file("file-2", expires_on=6_000))
    registry.batches.submit(make_batch(input_file_id="file-2"))
    with pytest.raises(Conflict, match="batch_1"):
        registry.files.delete(ADMIN, "file-2")
    clock.now = 7_000
    assert registry.files.expired() == []
    registry.batches.cancel(ADMIN, "batch_1")
    registry.batches.claim("one")
    registry.batches.advance("batch_1", "one", Step(to=BatchStatus.CANCELLED))
    (expired,) = registry.files.expired()
    assert expired.id == "file-2"
    registry.files.forget(["file-2"])
    assert registry.files.expired() == []
