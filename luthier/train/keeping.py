"""Checkpoints on their way to storage, behind the back of the steps."""

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from luthier.errors import TrainingFailed
from luthier.platform.jobs import EventType
from luthier.train.checkpoint import Snapshot
from luthier.train.run import Run

PAUSES = (0.0, 2.0, 8.0)
"""Seconds before each try to keep a checkpoint."""


class Keeper:
    """Writes one snapshot after another in a thread; a step waits only when the one before is not written yet.

    A checkpoint that cannot be kept is an event and no more, but for the last one.
    """

    def __init__(self, run: Run) -> None:
        for half in run.folder.glob(".step-*"):  # of a worker that was killed there
            if run.team.rank == 0:
                shutil.rmtree(half, ignore_errors=True)
        self._run = run
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._written: Future[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()

    def keep(self, snapshot: Snapshot) -> None:
        """Begins to write; the one before must be written."""
        self._written = self._writer.submit(_write, self._run, snapshot)

    def finish(self) -> None:
        """Returns when all is written; TrainingFailed if the last snapshot was not."""
        if reason := self.wait():
            raise TrainingFailed(f"The last checkpoint, of step {self._run.state.step}, could not be kept: {reason}")

    def wait(self) -> str:
        """Until the last snapshot is written. Why it could not be; empty when it was."""
        return self._written.result() if self._written else ""


def _write(run: Run, snapshot: Snapshot) -> str:
    """Hands on a folder with the checkpoint; the reason if that fails again and again."""
    step, reason = snapshot.state.step, ""
    folder = run.folder / f".step-{step}"  # beside its later place, so that it can be renamed there
    for pause in PAUSES:
        time.sleep(pause)
        try:
            folder.mkdir()
            snapshot.save(folder, run.model)
            run.worker.keep_checkpoint(folder, step)
            run.worker.note(EventType.CHECKPOINT_SAVED, f"step {step}")
            return ""
        except OSError as error:
            reason = str(error) or type(error).__name__
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    run.worker.note(EventType.CHECKPOINT_FAILED, f"The checkpoint of step {step} could not be kept: {reason}")
    return reason
