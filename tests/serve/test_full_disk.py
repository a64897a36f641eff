"""A spool on a full disk, and at its replica's end: no record is lost, and none is sent twice."""

import asyncio
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from luthier.errors import Unavailable
from luthier.platform.metering import UsageRecord
from luthier.platform.registry.registry import Registry
from luthier.platform.settled import SettledFiles
from luthier.serve.engines.engine import VllmEngine
from luthier.serve.metering import usage
from luthier.serve.metering.living import PROCESS
from luthier.serve.metering.usage import UsageSpool
from luthier.serve.replica import EngineReplica
from tests.factories import make_record
from tests.full_disk import full_disk
from tests.serve.spools import Door, Ledger, lines
from tests.waiting import SECONDS


class DeadEngine:
    async def check(self) -> None:
        raise Unavailable("dead")

    def kill(self) -> None:
        """It is dead."""


def young(name: str) -> UsageRecord:
    """Younger than the counters, so it counts."""
    return make_record(name, time=10**15)


@pytest.mark.parametrize("room", [0, 500], ids=["takes nothing", "takes a part"])
def test_what_a_full_disk_does_not_take_reaches_the_ledger(folder: Path, own_file: Path, room: int) -> None:
    ledger = Ledger()
    spool = UsageSpool(folder, ledger.append)
    spool.settle(young("a"))
    assert own_file.stat().st_size < 500 < 2 * own_file.stat().st_size
    with full_disk(room):
        spool.settle(young("b"))
        assert own_file.stat().st_size == max(room, len(young("a").model_dump_json()) + 1)
        with pytest.raises(Unavailable, match="disk takes no usage"):
            spool.check()
        for name in "cd":  # which were under way
            with pytest.raises(OSError, match="File too large"):
                spool.flush()
            spool.settle(young(name))
        with pytest.raises(Unavailable, match="disk takes no usage"):
            spool.check()
        assert set(ledger.records) == set("abc")
    spool.flush()
    spool.check()
    assert set(ledger.records) == set("abcd")
    assert SettledFiles(folder).of(PROCESS).totals.records == 4
    assert [file.read_text() for file in folder.glob("*.jsonl")] == [""]


def test_what_a_full_disk_does_not_count_is_counted_later(folder: Path) -> None:
    ledger = Ledger()
    spool = UsageSpool(folder, ledger.append)
    spool.settle(young("a"))
    with full_disk():
        with pytest.raises(OSError, match="File too large"):
            spool.flush()
        with pytest.raises(Unavailable, match="disk takes no usage"):
            spool.check()
    assert set(ledger.records) == {"a"}
    assert SettledFiles(folder).of(PROCESS).totals.records == 0
    spool.flush()
    spool.check()
    assert SettledFiles(folder).of(PROCESS).totals.records == 1


def test_what_a_full_disk_did_not_take_is_there_once_it_is_well(folder: Path, own_file: Path) -> None:
    ledger = Ledger()
    ledger.is_away = True
    spool = UsageSpool(folder, ledger.append)
    with full_disk():
        for name in "ab":
            spool.settle(make_record(name))
            with pytest.raises(Unavailable, match="away"):
                spool.flush()
    with pytest.raises(Unavailable, match="away"):
        spool.flush()
    spool.check()
    assert lines(own_file) == ["a", "b"]


def test_a_full_disk_that_is_well_again_lets_in_by_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 0.01)
    ledger = Ledger()
    spool = UsageSpool(folder, ledger.append)
    spool.start()
    with full_disk():
        spool.settle(make_record("a"))
        while not ledger.records:
            time.sleep(0.001)
    while spool._fault:
        time.sleep(0.001)
    spool.check()
    assert [record.message for record in caplog.records if "waits in memory" in record.message] == [
        f"usage waits in memory, as {folder} takes none: [Errno 27] File too large"
    ]


def test_a_full_disk_holds_up_no_record_and_sends_none_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 0.01)
    pauses: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(usage, "time", SimpleNamespace(sleep=lambda pause: (pauses.append(pause), sleep(pause))))
    door = Door(cast(Registry, SimpleNamespace(ledger=Ledger())))
    spool = UsageSpool(folder, door.append)
    spool.start()
    with full_disk():
        for name in "abc":
            spool.settle(make_record(name))
            assert door.tries.get(timeout=SECONDS) == [name]
            begun = len(pauses)
            while len(pauses) < begun + 3:
                sleep(0.001)
        assert set(pauses) == {0.01}
        assert door.tries.empty()


def test_the_end_sends_what_is_in_memory_alone(folder: Path) -> None:
    ledger = Ledger()
    replica = EngineReplica()
    replica._spool = UsageSpool(folder, ledger.append)
    with full_disk():
        replica._spool.settle(make_record("a"))
        replica.__del__()
    assert set(ledger.records) == {"a"}


def test_a_dead_engine_ends_the_process_after_that(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, ended = Ledger(), list[set[str]]()
    replica = EngineReplica()
    replica._spool, replica._engine = UsageSpool(folder, ledger.append), cast(VllmEngine, DeadEngine())
    monkeypatch.setattr(os, "_exit", lambda _status: ended.append(set(ledger.records)))
    with full_disk():
        replica._spool.settle(make_record("a"))
        asyncio.run(replica.check_health())
    assert ended == [{"a"}]


def test_an_end_waits_for_no_ledger_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "END_SECONDS", 0.01)
    hangs, answers = threading.Event(), threading.Event()

    def append(_records: list[UsageRecord]) -> int:
        hangs.set()
        assert answers.wait(SECONDS)
        return 0

    spool = UsageSpool(folder, append)
    spool.settle(make_record("a"))
    spool.end()
    assert hangs.wait(SECONDS)
    answers.set()
    spool.flush()
