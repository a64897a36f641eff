"""Storage that is away, or does not give a file: nobody's model is to blame, and the next request tries again."""

import errno
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from luthier.platform.models import ProofState
from luthier.platform.settings import Settings
from luthier.platform.weights.artifacts import MANIFEST
from luthier.platform.weights.fingerprint import FINGERPRINT
from luthier.serve.adapters.worker import AdapterWorker
from tests.fakes import failing_reads
from tests.serve.loading_bench import Bench, run


def test_an_adapter_answers_as_soon_as_storage_is_back(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        (tmp_path / "storage").rename(tmp_path / "away")
        for _ in range(2):
            await bench.is_not_given(version)
        (tmp_path / "away").rename(tmp_path / "storage")
        await bench.ask(version)

    run(settings, tmp_path, story)


@pytest.mark.parametrize("name", ["weights", MANIFEST, FINGERPRINT])
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_what_storage_does_not_give_is_no_fault_of_the_adapter(
    settings: Settings, tmp_path: Path, name: str, code: int
) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        with pytest.MonkeyPatch.context() as patch:
            failing_reads(patch, tmp_path / "storage" / version.sha256 / name, code)
            bench.disk.size = 0  # no copy has room
            for _ in range(2):
                await bench.is_not_given(version)
        await bench.ask(version)
        await bench.until(lambda: bench.reports)
        assert [(number, state) for number, state, _ in bench.reports] == [(1, ProofState.UNPROVED)]

    run(settings, tmp_path, story)


def test_what_the_engine_cannot_open_is_no_fault_of_the_adapter(settings: Settings, tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        version = bench.version(1)
        bench.engine.unread[1] = "OSError: [Errno 24] Too many open files"
        await bench.is_not_given(version)
        bench.engine.unread.clear()
        await bench.ask(version)

    run(settings, tmp_path, story)


def test_what_this_disk_does_not_give_comes_from_storage(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        versions = [bench.version(number) for number in (1, 2, 3)]
        for version in versions:
            await bench.ask(version)
        (copy,) = (tmp_path / "disk" / "tiny").glob(f"{versions[0].sha256}-*")
        bench.disk.size = 0
        failing_reads(monkeypatch, copy / "weights", errno.EIO)
        await bench.ask(versions[0])
        assert not copy.exists()
        assert (await bench.loader.stats("r")).loads["storage"].count == 4

    run(settings, tmp_path, story)


def not_found() -> Exception:
    """As vLLM tells it."""
    error = RuntimeError("No adapter found")
    error.__cause__ = FileNotFoundError("No such file")
    return error


@pytest.mark.parametrize(
    ("error", "is_storages"),
    [(OSError(errno.EMFILE, "Too many open files"), True), (not_found(), True), (ValueError("rank 99"), False)],
)
def test_a_worker_tells_storages_faults_from_the_adapters(error: Exception, is_storages: bool) -> None:
    class Worker(AdapterWorker):
        model_runner = SimpleNamespace(
            lora_manager=SimpleNamespace(_adapter_manager=SimpleNamespace(remove_adapter=lambda number: None))
        )

    worker, reading = Worker(), Future[Any]()
    reading.set_exception(error)
    worker._adapters_coming()[1] = reading
    for _ in range(2):
        assert worker.take_adapters([1, 2]) == [(1, (f"{type(error).__name__}: {error}", is_storages))]
    worker.model_runner.lora_manager.remove_adapter = lambda number: None
    worker.drop_adapter(1)
    assert worker.take_adapters([1]) == []
