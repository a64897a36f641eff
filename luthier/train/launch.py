"""A FitConfig to a Ray Train run and back: fit() starts or resumes it, waits, and gives its result or its one error.

Imports torch and transformers in the workers only, so that the processes around them start fast.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError, TrainingFailed
from luthier.train.config import FitConfig, FitResult, StepRecord

__all__ = ["FitConfig", "FitResult", "OnProgress", "StepRecord", "fit"]

OnProgress = Callable[[list[StepRecord], int], None]

FLUSH_SECONDS = 0.5
# Ray Train hands reports on at each health check, 2 s apart unless told; it passes these on to its processes.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def fit(config: FitConfig, on_progress: OnProgress) -> FitResult:
    """Trains, or goes on from the last checkpoint of the same job_id and storage_path.

    on_progress runs in rank 0's process. It gets all new records and the number of all steps, at most twice a second;
    after a resume the records kept in the checkpoint come first, so a step may arrive twice, equal each time.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    trainer = TorchTrainer(
        _work,
        train_loop_config={"config": config, "on_progress": on_progress},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.num_cpus, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=config.job_id,
            storage_path=str(config.storage_path),
            failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingFailed(f"Training run {config.job_id} failed: {_root_cause(error)}") from error
    outcome: LuthierError | list[StepRecord] = result.return_value
    if isinstance(outcome, LuthierError):
        raise outcome
    return _result(Path(result.checkpoint.path), outcome)


def _result(checkpoint_dir: Path, history: list[StepRecord]) -> FitResult:
    last = [record for record in history if record.epoch == history[-1].epoch]
    return FitResult(
        checkpoint_dir=checkpoint_dir,
        history=tuple(history),
        trained_tokens=sum(record.num_tokens for record in history),
        training_loss=sum(record.training_loss for record in last) / len(last),
        validation_loss=history[-1].validation_loss,
    )


def _root_cause(error: BaseException) -> str:
    """The innermost error under Ray's wrappers, in one line."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        failures = getattr(error, "worker_failures", None)
        inner = next(iter(failures.values()), None) if failures else None
        for name in ("controller_failure", "health_check_failure", "_base_exc", "cause", "__cause__"):
            inner = inner or getattr(error, name, None)
        if isinstance(inner, BaseException):
            error = inner
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def _work(job: dict[str, Any]) -> LuthierError | list[StepRecord]:
    """One worker's process. A LuthierError is handed back, for Ray would try a raised one again."""
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    from luthier.train.loop import train

    config: FitConfig = job["config"]
    try:
        with _Flusher(job["on_progress"]) as flusher:
            return train(config, _worker(flusher))
    except LuthierError as error:
        return error


def _worker(flusher: "_Flusher") -> Any:
    import ray.train
    import ray.train.torch

    from luthier.train.loop import Worker

    context = ray.train.get_context()
    rank = context.get_world_rank()
    resumed = ray.train.get_checkpoint()
    return Worker(
        rank=rank,
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        resume_from=Path(resumed.path) if resumed else None,
        keep_checkpoint=_keep_checkpoint,
        report=flusher.add if rank == 0 else _ignore,
    )


def _ignore(record: StepRecord, num_steps: int) -> None:
    """Ranks above 0 have the same records as rank 0."""


def _keep_checkpoint(folder: Path | None, step: int) -> None:
    import ray.train

    kept = ray.train.Checkpoint.from_directory(str(folder)) if folder else None
    ray.train.report({"step": step}, checkpoint=kept, checkpoint_dir_name=f"step-{step:06d}")


class _Flusher:
    """Hands records to on_progress from a thread of its own, so that no step waits; an error there ends the run."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._send = on_progress
        self._waiting: list[StepRecord] = []
        self._num_steps = 0
        self._error: Exception | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Flusher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        if self._error:
            raise self._error
        self._flush()

    def add(self, record: StepRecord, num_steps: int) -> None:
        if self._error:
            raise self._error
        with self._lock:
            self._waiting.append(record)
            self._num_steps = num_steps

    def _run(self) -> None:
        try:
            while not self._closed.wait(FLUSH_SECONDS):
                self._flush()
        except Exception as error:  # raised again in the training thread, by add or __exit__
            self._error = error

    def _flush(self) -> None:
        with self._lock:
            records, self._waiting = self._waiting, []
        if records:
            self._send(records, self._num_steps)
