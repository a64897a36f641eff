"""Runs without Ray: one in this process, or several processes over gloo."""

import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.train.config import FitConfig, StepRecord
from luthier.train.loop import train
from luthier.train.run import Run, Worker


class Local:
    """A run of one process that keeps every checkpoint and event."""

    def __init__(self, folder: Path, resume_from: Path | None = None) -> None:
        self.folder = folder
        self.reported: list[tuple[int, int]] = []
        self.events: list[tuple[str, str]] = []
        self.worker = Worker(
            0, 1, torch.device("cpu"), resume_from, self.keep, self.report, lambda *event: self.events.append(event)
        )

    def keep(self, folder: Path, step: int) -> None:
        shutil.copytree(folder, self.folder / str(step))

    def report(self, record: StepRecord, num_steps: int) -> None:
        self.reported.append((record.step, num_steps))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def alone(config: FitConfig) -> list[StepRecord]:
    return train(config, silent_worker())


def silent_run(config: FitConfig) -> Run:
    return Run(config, silent_worker())


def silent_worker(rank: int = 0, world_size: int = 1, resume_from: Path | None = None) -> Worker:
    return Worker(rank, world_size, torch.device("cpu"), resume_from, _nothing, _nothing, _nothing)


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Case:
    """A run of several workers, and where its checkpoints and histories go."""

    config: FitConfig
    folder: Path
    resume_from: Path | None = None

    def histories(self) -> list[list[StepRecord]]:
        """One a worker."""
        files = sorted(self.folder.glob("history-*.pt"))
        return [torch.load(file, weights_only=False) for file in files]

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = torch.load(self.folder / str(step) / "trainer.pt")["weights"]
        return weights


def run_together(size: int, cases: list[Case], folder: Path) -> None:
    """All cases one after another in the same processes, for these take long to start."""
    spawn(size, folder, run_cases, cases)


def spawn(size: int, folder: Path, work: Callable[..., None], *given: Any) -> None:
    """Runs work(rank, size, *given) in so many processes that make one group."""
    workers = _started(size, folder, work, given)
    while not workers.join():
        pass


def error_of(rank: int, size: int, folder: Path, work: Callable[..., None], *given: Any) -> str:
    """As `spawn`, of a group that this worker breaks: how it ended. The others lose it, and may end before it does."""
    workers = _started(size, folder, work, given)
    workers.processes[rank].join()
    for each in workers.processes:
        each.terminate()
        each.join()
    assert workers.processes[rank].exitcode == 1
    trace: str = pickle.loads(Path(workers.error_files[rank]).read_bytes())
    return trace


def _started(size: int, folder: Path, work: Callable[..., None], given: tuple[Any, ...]) -> Any:
    meeting = folder / f"meeting-of-{size}"
    meeting.unlink(missing_ok=True)
    multiprocessing.set_forkserver_preload(["tests.train.local", "transformers.models.llama.modeling_llama", "pandas"])
    how = {"nprocs": size, "start_method": "forkserver", "join": False}
    return torch.multiprocessing.start_processes(_joined, (size, meeting, work, given), **how)


def _joined(rank: int, size: int, meeting: Path, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=size)
    work(rank, size, *given)
    torch.distributed.destroy_process_group()


def run_cases(rank: int, size: int, cases: list[Case]) -> None:
    for case in cases:
        _run_case(rank, size, case)


def _run_case(rank: int, size: int, case: Case) -> None:
    case.folder.mkdir(exist_ok=True)

    def keep(kept: Path, step: int) -> None:
        assert rank == 0
        shutil.copytree(kept, case.folder / str(step))

    worker = Worker(rank, size, torch.device("cpu"), case.resume_from, keep, _nothing, _nothing)
    torch.save(train(case.config, worker), case.folder / f"history-{rank}.pt")


def assert_same(history: list[StepRecord], expected: list[StepRecord], within: float) -> None:
    """The same steps, with losses and gradients that differ by no more than rounding."""
    measured = {"training_loss", "validation_loss", "gradient_norm"}
    assert [r.model_dump(exclude=measured) for r in history] == [r.model_dump(exclude=measured) for r in expected]
    for ours, theirs in zip(history, expected, strict=True):
        assert (ours.validation_loss is None) == (theirs.validation_loss is None)
        for name in measured:
            if getattr(theirs, name) is not None:
                assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=within), (ours.step, name)
