"""Storage that hangs: it keeps its own threads, and nobody waits for it in vain; what is on the disk goes on."""

import asyncio
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from luthier.platform.models import ModelVersion
from luthier.platform.settings import Settings
from luthier.serve.adapters.disk import Original
from luthier.serve.adapters.worker import NUM_FAR, AdapterWorker
from luthier.serve.threads import STORAGE
from tests.fakes import hanging_storage
from tests.serve.loading_bench import SIZE, Bench, run

LONG = 60.0
"""Seconds that no test may take."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Original, "seconds", 0.2)


async def on_disk(bench: Bench) -> list[ModelVersion]:
    """More than memory has room for."""
    versions = [bench.version(number) for number in range(1, SIZE + 2)]
    for version in versions:
        await bench.ask(version)
    return versions


def test_what_is_on_the_disk_does_not_wait_for_storage(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        known = await on_disk(bench)
        with hanging_storage() as asked:
            new = [asyncio.create_task(bench.ask(bench.version(number))) for number in range(10, 12 + STORAGE.num)]
            await bench.until(lambda: len(asked) == STORAGE.num)
            for version in known * 2:
                await asyncio.wait_for(bench.ask(version), LONG)
            assert (await bench.loader.stats("r")).loads["disk"].count >= SIZE + 1
            assert not any(each.done() for each in new)
            assert len(asked) == STORAGE.num
        await asyncio.gather(*new)

    run(settings, tmp_path, story)


@pytest.mark.usefixtures("impatient")
def test_who_asks_for_what_hangs_is_told_to_come_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        with hanging_storage() as asked:
            await bench.is_not_given(version)
            monkeypatch.setattr(Original, "seconds", LONG)
            await bench.is_not_given(version)  # at once: its fetch hangs
            assert asked == [Path(version.path)]
        await bench.until(lambda: not bench.loader._fetches._coming)
        await bench.ask(version)
        assert (await bench.loader.stats("r")).loads["disk"].count == 1

    run(settings, tmp_path, story)


@pytest.mark.usefixtures("impatient")
def test_when_all_that_is_fetched_hangs_nobody_else_waits(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        with hanging_storage() as asked:
            await asyncio.gather(*(bench.is_not_given(bench.version(number)) for number in range(1, 1 + STORAGE.num)))
            monkeypatch.setattr(Original, "seconds", LONG)
            late = bench.version(99)
            await bench.is_not_given(late)
            assert len(asked) == STORAGE.num
        await bench.until(lambda: len(bench.disk.copies()) == STORAGE.num)
        await bench.ask(late)

    run(settings, tmp_path, story)


@pytest.mark.usefixtures("impatient")
def test_a_fetch_that_nobody_waits_for_leaves_a_copy_that_may_go(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        one, two = bench.version(1), bench.version(2)
        with hanging_storage():
            await bench.is_not_given(one)
        await bench.until(lambda: not bench.loader._fetches._coming)
        bench.disk.size = sum(bench.disk.copies().values())
        await bench.ask(two)
        assert list(bench.disk.copies()) == [2]

    run(settings, tmp_path, story)


def test_who_is_cancelled_waits_for_no_copy(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        one, two = bench.version(1), bench.version(2)
        with hanging_storage() as asked:
            fetching = asyncio.create_task(bench.loader._fetches.copy(one))
            await bench.until(lambda: asked)
            fetching.cancel()
            await asyncio.wait([fetching])
        await bench.until(lambda: not bench.loader._fetches._coming)
        bench.disk.size = sum(bench.disk.copies().values())
        await bench.ask(two)
        assert list(bench.disk.copies()) == [2]

    run(settings, tmp_path, story)


@pytest.mark.usefixtures("impatient")
def test_storage_that_hangs_where_no_copy_has_room(settings: Settings, tmp_path: Path) -> None:
    """A pipe that nobody writes to: the kernel itself keeps its reader."""

    async def story(bench: Bench) -> None:
        known = await on_disk(bench)
        bench.disk.size, version = 0, bench.version(9)
        weights = Path(version.path) / "weights"
        weights.rename(aside := tmp_path / "aside")
        os.mkfifo(weights)
        for _ in range(2):
            await bench.is_not_given(version)
        for each in known:
            await bench.ask(each)
        reader = os.open(weights, os.O_WRONLY)  # gives what is read through an end
        aside.replace(weights)
        os.close(reader)
        await bench.until(lambda: not bench.loader._fetches._coming)
        await bench.ask(version)
        assert version.number not in bench.disk.copies()

    run(settings, tmp_path, story)


def test_in_an_engine_what_storage_has_holds_up_no_copy() -> None:
    goes_on = threading.Event()

    class Worker(AdapterWorker):
        model_runner = SimpleNamespace()

        def _read_adapter(self, number: int, name: str, path: str) -> None:
            if path == "far":
                goes_on.wait()

    worker, until = Worker(), time.monotonic() + LONG
    try:
        for number in range(1, 2 + NUM_FAR):
            worker.begin_adapter(number, "m", "far", True)
        worker.begin_adapter(99, "m", "near", False)
        coming = worker._adapters_coming()
        while [number for number, reading in coming.items() if reading.done()] != [99]:
            assert time.monotonic() < until
    finally:
        goes_on.set()


def test_an_engine_reads_no_adapter_that_was_dropped() -> None:
    goes_on, read = threading.Event(), list[int]()

    class Worker(AdapterWorker):
        model_runner = SimpleNamespace(lora_manager=SimpleNamespace(remove_adapter=lambda _: None))

        def _read_adapter(self, number: int, name: str, path: str) -> None:
            goes_on.wait()
            read.append(number)

    worker = Worker()
    try:
        for number in (1, 2, 3):
            worker.begin_adapter(number, "m", "near", False)
        last = worker._adapters_coming()[3]
        worker.drop_adapter(2)
    finally:
        goes_on.set()
    last.result(LONG)
    assert read == [1, 3]
