"""The spool: records outlive a registry that is away and a process that died; the ledger has each once."""

import os
import queue
import subprocess
import sys
from pathlib import Path

import pytest

from luthier.errors import Unavailable
from luthier.platform.metering import UsageKind, UsageRecord
from luthier.platform.registry.registry import Registry
from luthier.serve import usage
from luthier.serve.usage import UsageSpool
from tests.factories import ADMIN, make_record

DEADLINE_SECONDS = 20


class Door:
    """The ledger's append behind a door that a test opens and shuts; every try is put down."""

    def __init__(self, registry: Registry, is_open: bool = True) -> None:
        self._registry, self.is_open = registry, is_open
        self.tries: queue.Queue[list[str]] = queue.Queue()
        self.error: Exception = Unavailable("away")

    def append(self, records: list[UsageRecord]) -> int:
        try:
            if not self.is_open:
                raise self.error
            return self._registry.ledger.append(records)
        finally:
            self.tries.put([record.source_id for record in records])


def kept(registry: Registry) -> list[str]:
    return [record.source_id for record in registry.ledger.records(ADMIN, UsageKind.COMPLETION)]


def lines(file: Path) -> list[str]:
    return [UsageRecord.model_validate_json(line).source_id for line in file.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def own_file(folder: Path) -> Path:
    return folder / f"{os.getpid()}.jsonl"


@pytest.fixture
def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def leave_behind(folder: Path, pid: int, *records: UsageRecord, torn: str = "") -> Path:
    folder.mkdir(parents=True)
    file = folder / f"{pid}.jsonl"
    file.write_text("".join(record.model_dump_json() + "\n" for record in records) + torn)
    return file


def test_a_settled_record_reaches_the_ledger_by_itself(registry: Registry, folder: Path, own_file: Path) -> None:
    door = Door(registry)
    spool = UsageSpool(folder, door.append)
    spool.settle(make_record("a"))
    assert door.tries.get(timeout=DEADLINE_SECONDS) == ["a"]
    spool.flush()
    assert kept(registry) == ["a"]
    assert own_file.read_text() == ""


@pytest.mark.parametrize("error", [Unavailable("away"), OSError("disk")], ids=["away", "any other fault"])
def test_records_wait_on_disk_while_the_registry_is_away(
    registry: Registry, folder: Path, own_file: Path, error: Exception
) -> None:
    door = Door(registry, is_open=False)
    door.error = error
    spool = UsageSpool(folder, door.append)
    spool.settle(make_record("a"))
    spool.settle(make_record("b"))
    door.tries.get(timeout=DEADLINE_SECONDS)
    with pytest.raises(type(error)):
        spool.flush()
    assert kept(registry) == []
    assert lines(own_file) == ["a", "b"]
    door.is_open = True
    while door.tries.get(timeout=DEADLINE_SECONDS) != ["a", "b"] or not kept(registry):
        pass
    spool.flush()
    assert kept(registry) == ["a", "b"]
    assert own_file.read_text() == ""


def test_a_new_spool_takes_over_what_a_dead_process_left(registry: Registry, folder: Path, dead_pid: int) -> None:
    left = leave_behind(folder, dead_pid, make_record("a"), make_record("b"), torn='{"kind":"completion","model":"x}')
    registry.ledger.append([make_record("a")])
    spool = UsageSpool(folder, Door(registry).append)
    assert not left.exists()
    spool.flush()
    assert sorted(kept(registry)) == ["a", "b"]


def test_a_process_id_that_comes_again(registry: Registry, folder: Path, own_file: Path) -> None:
    leave_behind(folder, os.getpid(), make_record("a"), torn='{"kind":')
    door = Door(registry, is_open=False)
    spool = UsageSpool(folder, door.append)
    spool.settle(make_record("b"))
    assert lines(own_file) == ["a", "b"]
    door.is_open = True
    spool.flush()
    assert kept(registry) == ["a", "b"]


def test_what_a_living_process_holds_is_left_alone(registry: Registry, folder: Path) -> None:
    theirs = leave_behind(folder, 1, make_record("a"))
    UsageSpool(folder, Door(registry).append).flush()
    assert lines(theirs) == ["a"]
    assert kept(registry) == []


def test_a_contradiction_is_refused_alone(
    registry: Registry, folder: Path, dead_pid: int, caplog: pytest.LogCaptureFixture
) -> None:
    registry.ledger.append([make_record("a")])
    leave_behind(folder, dead_pid, make_record("a", prompt_tokens=99), make_record("b"))
    UsageSpool(folder, Door(registry).append).flush()
    assert kept(registry) == ["a", "b"]
    assert "usage refused" in caplog.text


def test_more_than_a_batch(registry: Registry, folder: Path, dead_pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_BATCH", 2)
    leave_behind(folder, dead_pid, *(make_record(name) for name in "abcde"))
    spool = UsageSpool(folder, Door(registry).append)
    for _ in range(3):
        spool.flush()
    assert sorted(kept(registry)) == list("abcde")


def test_odd_names_survive(registry: Registry, folder: Path, dead_pid: int) -> None:
    name = 'LUTHIER.PUBLIC."a\u2028b\n}"'
    leave_behind(folder, dead_pid, make_record("a", model=name))
    UsageSpool(folder, Door(registry).append).flush()
    assert [record.model for record in registry.ledger.records(ADMIN, UsageKind.COMPLETION)] == [name]
