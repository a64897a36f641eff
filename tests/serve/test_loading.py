"""Adapters on their way into an engine: once each, as many as there is room for, and each fault one model's own."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import Unavailable
from luthier.platform.models import Proof, ProofState
from luthier.platform.settings import Settings
from luthier.platform.weights.artifacts import MANIFEST
from luthier.platform.weights.fingerprint import FINGERPRINT
from luthier.serve.adapters import loading
from luthier.serve.adapters.adapter_stats import LOAD_SECONDS
from luthier.serve.adapters.disk import Copy
from tests.serve.loading_bench import SIZE, Bench, run


def test_many_who_ask_at_once_load_it_once(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        await asyncio.gather(*(bench.ask(version, 0.01) for _ in range(5)))
        await bench.ask(version)
        assert bench.engine.num_begun == 1
        stats = await bench.loader.stats("r")
        assert (stats.misses, stats.hits) == (5, 1)
        assert (stats.in_engine, stats.in_memory, stats.on_disk) == ([1], [1], [1])
        assert 0 < stats.disk_bytes < stats.max_disk_bytes
        loads = stats.loads["storage"]
        assert (loads.count, stats.loads["disk"].count) == (1, 0)
        assert loads.buckets == [*(int(loads.seconds <= bound) for bound in LOAD_SECONDS), 1]
        assert 0 < loads.seconds == pytest.approx(loads.ms["p50"] / 1000)
        await bench.until(lambda: bench.reports)
        assert [(number, state) for number, state, _ in bench.reports] == [(1, ProofState.UNPROVED)]

    run(settings, tmp_path, story)


def test_the_engine_is_asked_once_for_all_that_are_on_their_way(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.readable.clear()
        asked = [asyncio.create_task(bench.ask(bench.version(number))) for number in (1, 2)]
        await bench.until(lambda: bench.engine.num_begun == 2)
        last = bench.engine.num_asked
        await bench.until(lambda: bench.engine.num_asked > last + 5)
        bench.engine.readable.set()
        await asyncio.gather(*asked)
        assert bench.engine.most_asking == 1

    run(settings, tmp_path, story)


def test_an_adapter_waits_for_few_of_the_engines_steps(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer of a busy engine takes one: whose place it gets is dropped in the one in which its reading begins."""

    async def story(bench: Bench) -> None:
        for number in range(1, SIZE + 1):
            await bench.ask(bench.version(number))
        asked, begun, call = list[str](), asyncio.Event(), bench.engine.call

        async def told(method: str, *args: Any) -> list[Any]:
            asked.append(method)
            answer = await call(method, *args)
            if method == "begin_adapter":
                begun.set()
            if method == "drop_adapter":
                await begun.wait()
            return answer

        monkeypatch.setattr(bench.engine, "call", told)
        async with asyncio.timeout(10):
            await bench.ask(bench.version(SIZE + 1))
        assert asked == ["drop_adapter", "begin_adapter", "take_adapters"]

    run(settings, tmp_path, story)


def test_an_engine_that_dies_while_it_reads_is_told_to_all(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.readable.clear()
        asked = [asyncio.create_task(bench.ask(bench.version(number))) for number in (1, 2)]
        await bench.until(lambda: bench.engine.num_begun == 2)
        bench.engine.is_dead = True
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(end) for end in ends] == [Unavailable] * 2

    run(settings, tmp_path, story)


@pytest.mark.parametrize("method", ["begin_adapter", "take_adapters"])
def test_a_load_that_fails_leaves_nothing_behind(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What went on beside it has ended: the look through its files, and the end of whose place it was to have."""

    async def story(bench: Bench) -> None:
        for number in range(1, SIZE + 1):
            await bench.ask(bench.version(number))
        call, fault, ended, has_failed = bench.engine.call, Copy.fault, list[str](), asyncio.Event()

        async def told(asked: str, *args: Any) -> list[Any]:
            if asked == method:
                has_failed.set()
                raise Unavailable("The engine stopped.")
            if (asked, args[0]) == ("drop_adapter", 1):
                await has_failed.wait()
                await several_turns()
            ended.append(f"{asked} {args[0]}")
            return await call(asked, *args)

        async def looked(copy: Copy) -> str | None:
            await several_turns()
            ended.append("looked through")
            return await fault(copy)

        monkeypatch.setattr(bench.engine, "call", told)
        monkeypatch.setattr(Copy, "fault", looked)
        with pytest.raises(Unavailable):
            await bench.ask(bench.version(SIZE + 1))
        assert ended[-1] == f"drop_adapter {SIZE + 1}"
        assert {"looked through", "drop_adapter 1"} <= {*ended[:-1]}

    async def several_turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    run(settings, tmp_path, story)


def test_the_least_recently_used_makes_room(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        one, two, three = (bench.version(number) for number in (1, 2, 3))
        for version in (one, two, one, three):
            await bench.ask(version)
        stats = await bench.loader.stats("r")
        assert (stats.in_memory, stats.evictions) == ([1, 3], 1)
        assert bench.engine.held == {1, 3}

    run(settings, tmp_path, story)


def test_one_in_use_stays_and_who_needs_its_place_waits(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        one, two, three = (bench.version(number) for number in (1, 2, 3))
        for version in (one, two):
            turn = await bench.loader.hold(version)
            assert turn
            turn()
        third = asyncio.create_task(bench.ask(three))
        await asyncio.wait([third], timeout=0.05)
        assert bench.engine.held == {1, 2}
        bench.loader.release(two)
        await third
        assert bench.engine.held == {1, 3}

    run(settings, tmp_path, story)


def test_more_adapters_than_room_all_at_once(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        versions = [bench.version(number) for number in range(1, 12)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(bench.ask(version, 0.002) for version in versions * 3))

    run(settings, tmp_path, story)


def test_who_leaves_while_it_loads_leaves_the_load_to_the_others(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        bench.engine.readable.clear()
        leaves, stays = (asyncio.create_task(bench.ask(version)) for _ in range(2))
        await bench.until(lambda: bench.engine.num_begun)
        leaves.cancel()
        await asyncio.wait([leaves])
        bench.engine.readable.set()
        await stays
        await bench.ask(bench.version(2))
        await bench.ask(bench.version(3))
        assert bench.engine.held == {2, 3}

    run(settings, tmp_path, story)


def test_what_the_engine_cannot_load_is_refused_until_it_may_be_mended(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        bad = bench.version(1)
        bench.engine.faults[1] = "rank 99"
        for _ in range(2):
            assert await bench.refusal(bad) == (
                "Model M1 cannot be asked: the engine cannot load it (rank 99). Tune or import it again; other models "
                "are not concerned."
            )
        assert bench.engine.num_begun == 1
        await asyncio.gather(*(bench.ask(bench.version(number)) for number in (2, 3)))
        monkeypatch.setattr(loading, "RETRY_SECONDS", 0.0)
        bench.loader._refusals.clear()
        await bench.refusal(bad)
        bench.engine.faults.clear()
        await bench.ask(bad)
        await bench.until(lambda: len(bench.reports) == 4)
        assert [state for number, state, _ in bench.reports if number == 1] == [ProofState.REFUSED, ProofState.UNPROVED]
        assert (await bench.loader.stats("r")).refused == 2

    run(settings, tmp_path, story)


def test_what_is_known_of_versions_is_bounded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        monkeypatch.setattr(loading, "RETRY_SECONDS", 0.0)
        monkeypatch.setattr(loading, "MAX_TOLD", 3)
        for number in range(1, 5):
            bench.engine.faults[number] = "rank 99"
            await bench.refusal(bench.version(number))
        assert (list(bench.loader._refusals), list(bench.loader._told)) == ([4], [4])

    run(settings, tmp_path, story)


def test_an_adapter_that_changes_nothing_is_refused(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.is_deaf = True
        assert "like its base model" in await bench.refusal(bench.version(1))
        assert bench.engine.held == set()

    run(settings, tmp_path, story)


def test_an_adapter_that_answers_no_numbers_is_refused(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        bench.engine.is_lost = True
        assert "no probabilities" in await bench.refusal(bench.version(1))
        assert bench.engine.held == set()

    run(settings, tmp_path, story)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: (folder / "weights").write_text("others"), "its weights is not what was published"),
        (lambda folder: (folder / "weights").unlink(), "its weights is missing in storage"),
        (lambda folder: (folder / MANIFEST).unlink(), f"its {MANIFEST} is missing in storage"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "its files cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text(json.dumps({})), "its files cannot be read"),
    ],
)
def test_damaged_files_are_never_placed(
    settings: Settings, tmp_path: Path, change: Callable[[Path], Any], fault: str
) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        change(Path(version.path))
        assert fault in await bench.refusal(version)
        assert bench.engine.num_taken == 0

    run(settings, tmp_path, story)


def test_what_left_memory_comes_back_from_the_disk_without_storage(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        one, two, three, four = (bench.version(number) for number in (1, 2, 3, 4))
        for version in (one, two, one, three):
            await bench.ask(version)
        (tmp_path / "storage").rename(tmp_path / "away")
        await bench.ask(two)
        stats = await bench.loader.stats("r")
        assert (stats.in_memory, stats.on_disk) == ([3, 2], [3, 2, 1])  # 1 was used until it left memory
        assert {source: loads.count for source, loads in stats.loads.items()} == {"disk": 1, "storage": 3}
        await bench.is_not_given(four)

    run(settings, tmp_path, story)


def overwrite(file: Path) -> None:
    """Another file in its place: storage keeps its own."""
    file.unlink(missing_ok=True)
    file.write_text("others")


@pytest.mark.parametrize(
    "change",
    [
        lambda copy: overwrite(copy / "weights"),
        lambda copy: (copy / "weights").unlink(),
        lambda copy: overwrite(copy / MANIFEST),
        lambda copy: overwrite(copy / FINGERPRINT),
        shutil.rmtree,
    ],
)
def test_a_damaged_copy_is_made_again(settings: Settings, tmp_path: Path, change: Callable[[Path], Any]) -> None:
    async def story(bench: Bench) -> None:
        versions = [bench.version(number) for number in (1, 2, 3)]
        for version in versions:
            await bench.ask(version)
        first = versions[0]
        (copy,) = (tmp_path / "disk" / "tiny").glob(f"{first.sha256}-*")
        change(copy)
        await bench.ask(first)
        assert (copy / "weights").read_text() == "1"
        assert (await bench.loader.stats("r")).loads["storage"].count == 4
        await bench.until(lambda: len(bench.reports) == 3)
        assert {state for _, state, _ in bench.reports} == {ProofState.UNPROVED}

    run(settings, tmp_path, story)


def test_no_copy_is_kept_of_what_is_refused(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        overwrite(Path(version.path) / "weights")
        await bench.refusal(version)
        assert bench.engine.num_begun == 1
        assert (await bench.loader.stats("r")).on_disk == []

    run(settings, tmp_path, story)


def test_a_dead_engine_is_no_fault_of_the_adapter(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        bench.engine.is_dead = True
        for _ in range(2):
            with pytest.raises(Unavailable):
                await bench.loader.hold(version)
        assert bench.reports == []

    run(settings, tmp_path, story)


def test_a_report_that_fails_is_told_again_at_the_next_load(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(bench: Bench) -> None:
        def fail(number: int, proof: Proof) -> None:
            raise Unavailable("The registry does not answer.")

        bench.loader._report = fail
        version = bench.version(1)
        await bench.ask(version)
        await bench.until(lambda: caplog.messages)
        assert caplog.messages == ["the proof of version 1 was not told: The registry does not answer."]
        bench.loader._report = bench.report
        for number in (2, 3):
            await bench.ask(bench.version(number))
        await bench.ask(version)
        await bench.until(lambda: len(bench.reports) == 3)

    run(settings, tmp_path, story)


def test_an_engine_that_does_not_tell_is_named_with_all_that_is_known(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        await bench.ask(bench.version(1))
        assert (await bench.loader.stats("r")).engine_tells
        monkeypatch.setattr(loading, "TELL_SECONDS", 0.05)
        bench.engine.is_busy = True
        busy = await bench.loader.stats("r")
        assert (busy.replica, busy.engine_tells, busy.in_engine, busy.in_memory) == ("r", False, [], [1])
        bench.engine.is_busy, bench.engine.is_dead = False, True
        assert not (await bench.loader.stats("r")).engine_tells

    run(settings, tmp_path, story)
