"""The spool: records outlive a registry that is away and a process that died; the ledger has each once."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import Unavailable
from luthier.platform.metering import UsageRecord
from luthier.platform.registry.registry import Registry
from luthier.platform.settled import SettledFiles
from luthier.serve.metering import usage
from luthier.serve.metering.living import PROCESS
from luthier.serve.metering.usage import UsageSpool
from tests.factories import ledger_of, make_record
from tests.full_disk import full_disk
from tests.serve.spools import DEAD, Door, kept, leave_behind, lines
from tests.waiting import SECONDS


def test_a_settled_record_reaches_the_ledger_by_itself(registry: Registry, folder: Path) -> None:
    door = Door(registry)
    spool = UsageSpool(folder, door.append)
    spool.start()
    spool.settle(make_record("a"))
    assert door.tries.get(timeout=SECONDS) == ["a"]
    spool.flush()
    assert kept(registry) == ["a"]
    assert [file.read_text() for file in folder.glob("*.jsonl")] == [""]


def test_what_comes_together_is_sent_together(registry: Registry, folder: Path) -> None:
    door = Door(registry)
    spool = UsageSpool(folder, door.append)
    spool.start()
    for name in "abc":
        spool.settle(make_record(name))
    assert door.tries.get(timeout=SECONDS) == ["a", "b", "c"]


def test_a_settled_record_is_on_disk_at_once(registry: Registry, folder: Path, own_file: Path) -> None:
    spool = UsageSpool(folder, Door(registry).append)
    spool.settle(make_record("a"))
    assert lines(own_file) == ["a"]


@pytest.mark.parametrize("error", [Unavailable("away"), OSError("disk")], ids=["away", "any other fault"])
def test_records_wait_on_disk_while_the_registry_is_away(registry: Registry, folder: Path, error: Exception) -> None:
    door = Door(registry, is_open=False)
    door.error = error
    spool = UsageSpool(folder, door.append)
    spool.start()
    spool.settle(make_record("a"))
    assert door.tries.get(timeout=SECONDS) == ["a"]
    with pytest.raises(type(error)):
        spool.flush()
    spool.settle(make_record("b"))
    assert kept(registry) == []
    assert [lines(file) for file in sorted(folder.glob("*.jsonl"))] == [["a"], ["b"]]
    door.is_open = True
    while door.tries.get(timeout=SECONDS) != ["b"]:
        pass
    spool.flush()
    assert kept(registry) == ["a", "b"]
    assert [file.read_text() for file in folder.glob("*.jsonl")] == [""]


def test_an_absence_is_told_once_and_asked_about_ever_less(
    registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(usage, "MOST_SECONDS", 0.05)
    pauses: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(usage, "time", SimpleNamespace(sleep=lambda pause: (pauses.append(pause), sleep(pause))))
    door = Door(registry, is_open=False)
    spool = UsageSpool(folder, door.append)
    spool.start()
    spool.settle(make_record("a"))
    while door.tries.qsize() < 5:
        pass
    door.is_open = True
    while not kept(registry):
        pass
    while len(told := [record.message for record in caplog.records if str(folder) in record.message]) < 2:
        pass
    assert told == [
        f"usage waits in {folder} until disk and ledger take it: away",
        f"usage in {folder} waits no more",
    ]
    assert [0.02, 0.04, 0.05, 0.05] in [pauses[at : at + 4] for at in range(len(pauses))]


def test_more_than_may_wait_is_refused(registry: Registry, folder: Path) -> None:
    left = leave_behind(folder, DEAD, make_record("a"))
    room = left.stat().st_size
    door = Door(registry, is_open=False)
    spool = UsageSpool(folder, door.append, max_bytes=3 * room)
    for name in "bc":
        spool.check()
        spool.settle(make_record(name))
        with pytest.raises(Unavailable):
            spool.flush()
    with pytest.raises(Unavailable, match="ledger has been away"):
        spool.check()
    spool.settle(make_record("d"))  # what was under way is kept all the same
    door.is_open = True
    spool.flush()
    spool.check()
    assert sorted(kept(registry)) == ["a", "b", "c", "d"]


def test_a_long_absence_leaves_two_files(registry: Registry, folder: Path) -> None:
    spool = UsageSpool(folder, Door(registry, is_open=False).append)
    for name in "abcde":
        spool.settle(make_record(name))
        with pytest.raises(Unavailable):
            spool.flush()
    assert [lines(file) for file in sorted(folder.glob("*.jsonl"))] == [["a"], ["b", "c", "d", "e"]]


@pytest.mark.parametrize("suffix", ["", "-1", "-12"], ids=["as it was named before", "its first", "its twelfth"])
def test_a_new_spool_takes_over_what_a_dead_process_left(registry: Registry, folder: Path, suffix: str) -> None:
    records, torn = (make_record("a"), make_record("b")), '{"kind":"completion","model":"x}'
    left = leave_behind(folder, f"{DEAD}{suffix}", *records, torn=torn)
    empty = leave_behind(folder, f"{DEAD}-13")
    registry.ledger.append([make_record("a")])
    UsageSpool(folder, Door(registry).append).flush()
    assert not left.exists()
    assert not empty.exists()
    assert sorted(kept(registry)) == ["a", "b"]


LIVING = """
import sys
from pathlib import Path
from luthier.serve.metering.living import live

live(Path(sys.argv[1]), int(sys.argv[2]))
print("alive", flush=True)
input()
"""


def test_a_line_that_is_torn_within_a_letter_stops_nobody(registry: Registry, folder: Path) -> None:
    left, foreign = leave_behind(folder, DEAD, make_record("a")), leave_behind(folder, "notes")
    with left.open("ab") as file:
        file.write('{"user":"J\u00fc'.encode()[:-1])
    assert [[record.source_id for record in records] for _, records in SettledFiles(folder).spools()] == [["a"]]
    UsageSpool(folder, Door(registry).append).flush()
    assert kept(registry) == ["a"]
    assert foreign.exists()


def test_what_a_living_process_holds_is_left_alone(registry: Registry, folder: Path) -> None:
    """As of another node: no process here has its number."""
    theirs = leave_behind(folder, f"{DEAD}-1", make_record("a"))
    command = [sys.executable, "-c", LIVING, str(folder), str(DEAD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "alive\n"
        UsageSpool(folder, Door(registry).append).flush()
        assert lines(theirs) == ["a"]
        assert kept(registry) == []
        process.kill()
    UsageSpool(folder, Door(registry).append).flush()
    assert not theirs.exists()
    assert kept(registry) == ["a"]
    assert [file.name for file in folder.glob("*.alive")] == [f"{PROCESS}.alive"]


def test_two_heirs_count_it_once(registry: Registry, folder: Path) -> None:
    leave_behind(folder, DEAD, make_record("a"))
    for heir in [UsageSpool(folder, Door(registry).append) for _ in range(2)]:
        heir.flush()
    assert kept(registry) == ["a"]


def test_a_contradiction_is_refused_alone(registry: Registry, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry.ledger.append([make_record("a")])
    leave_behind(folder, DEAD, make_record("a", prompt_tokens=99), make_record("b"))
    UsageSpool(folder, Door(registry).append).flush()
    assert kept(registry) == ["a", "b"]
    assert "usage refused" in caplog.text


def test_what_is_billed_to_another_answer_is_told_once(registry: Registry, folder: Path) -> None:
    registry.ledger.append([make_record(name, time=1) for name in ("a", "b")])
    told: list[str] = []
    spool = UsageSpool(
        folder, Door(registry).append, repeated=lambda them: told.extend(each.source_id for each in them)
    )
    for name in ("a", "c", "b"):
        spool.settle(make_record(name, time=2))
    for _ in range(2):
        spool.flush()
    assert told == ["a", "b"]
    assert kept(registry) == ["a", "b", "c"]


def test_more_than_a_batch(registry: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_BATCH", 2)
    leave_behind(folder, DEAD, *(make_record(name) for name in "abcde"))
    door = Door(registry)
    UsageSpool(folder, door.append).flush()
    assert [door.tries.get_nowait() for _ in range(3)] == [["a", "b"], ["c", "d"], ["e"]]
    assert sorted(kept(registry)) == list("abcde")


def test_odd_names_survive(registry: Registry, folder: Path) -> None:
    name = 'LUTHIER.PUBLIC."a\u2028b\n}"'
    leave_behind(folder, DEAD, make_record("a", model=name))
    UsageSpool(folder, Door(registry).append).flush()
    assert [record.model for record in ledger_of(registry)] == [name]


STEPS = ("settle", "flush", "flush, but nothing arrives", "flush, but the reply is lost", "killed", "full", "well")


@settings(max_examples=100)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=25))
def test_whatever_happens_each_record_arrives_with_its_own_content(steps: list[str]) -> None:
    arrived: list[UsageRecord] = []
    fault = ""

    def append(records: list[UsageRecord]) -> int:
        if fault != "nothing arrives":
            arrived.extend(records)
        if fault:
            raise Unavailable(fault)
        return len(records)

    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as disk:
        folder, settled = Path(name), 0
        spool = UsageSpool(folder, append)
        for number, step in enumerate([*steps, "well", "killed", "flush"]):
            is_full = spool._fault is not None
            if step == "settle":
                spool.settle(make_record(f"{settled}", time=settled))
                settled += 1
            elif step == "killed" and not is_full:  # what is in memory alone would be lost
                spool = heir(folder, append, number)
            elif step == "full":
                disk.enter_context(full_disk(100))
            else:
                if step == "well":
                    disk.close()
                fault = step.partition("but ")[2].removeprefix("the ")
                with contextlib.suppress(Unavailable, OSError):
                    spool.flush()
    told = [(record.source_id, record.time) for record in arrived]
    assert set(told) == {(str(each), each) for each in range(settled)}


def heir(folder: Path, append: Callable[[list[UsageRecord]], int], number: int) -> UsageSpool:
    """A new spool, after its process was killed: the files are those of a process that is no more."""
    for file in folder.glob(f"{PROCESS}-*.jsonl"):
        file.rename(file.with_stem(f"{2**30 + number}-{file.stem.partition('-')[2]}"))
    return UsageSpool(folder, append)


KILLED = """
import sys
from pathlib import Path
from luthier.serve.metering.usage import UsageSpool
from tests.factories import make_record

folder, ledger = Path(sys.argv[1]), open(sys.argv[2], "a")

def append(records):
    for record in records:
        print(record.model_dump_json(), file=ledger, flush=True)
    return len(records)

spool = UsageSpool(folder, append)
spool.start()
for number in range(100_000):
    spool.settle(make_record(f"{sys.argv[3]}-{number}"))
    print(number, flush=True)
"""


def test_killed_at_any_moment_nothing_is_lost_and_nothing_counted_twice(
    registry: Registry, folder: Path, tmp_path: Path
) -> None:
    ledger = tmp_path / "sent"
    settled: set[str] = set()
    for life, num_read in enumerate((1, 1_500, 4_000)):
        command = [sys.executable, "-c", KILLED, str(folder), str(ledger), str(life)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            settled.update(f"{life}-{process.stdout.readline().strip()}" for _ in range(num_read))
            process.kill()
            settled.update(f"{life}-{line.strip()}" for line in process.stdout if line.endswith("\n"))
    sent = [UsageRecord.model_validate_json(line) for line in ledger.read_text().split("\n")[:-1]]
    registry.ledger.append(sent)
    UsageSpool(folder, Door(registry).append).flush()
    counted = Counter(kept(registry))
    assert settled <= set(counted)
    assert set(counted.values()) == {1}
    assert len(counted) <= len(settled) + 3
    assert [file.read_text() for file in folder.glob("*.jsonl")] == [""]
