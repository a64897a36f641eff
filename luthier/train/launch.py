"""A FitConfig to a Ray Train run and back: fit() starts or resumes it, waits, and gives its result or its one error.

The model's libraries are imported in the workers only, so that the process around them starts fast.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError

from luthier.errors import LossDiverged, LuthierError, TrainingFailed, Unavailable
from luthier.platform.jobs import Event, EventType, now_ms
from luthier.platform.run_files import RunFiles, mark, read_pass_tokens, write_pass_tokens
from luthier.train.config import FitConfig, FitResult, StepRecord
from luthier.train.progress import News, TimedStep
from luthier.train.run_log import run_log

log = logging.getLogger(__name__)

OnProgress = Callable[[News], None]

FLUSH_SECONDS = 0.5
NUM_CHECKPOINTS = 2
"""That a run's folder has at most."""
# Ray Train looks after its workers every 2 s and waits 60 s for room unless told otherwise.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def fit(config: FitConfig, on_progress: OnProgress) -> FitResult:
    """Trains, or goes on from the last checkpoint of the same job_id and storage_path.

    on_progress runs in rank 0's process. It gets all new steps and events, at most twice a second; after a resume the
    steps kept in the checkpoint come first, so a step may arrive twice. The loss of a worker is told from this process,
    a lack of memory from the worker's own.
    Raises Unavailable when workers or their room were lost again and again: the same call may be made later.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.v2.api.exceptions import TrainingFailedError

    from luthier.train.trainer import Trainer

    class Watch(UserCallback):  # type: ignore[misc]  # Ray is untyped
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            on_progress(News(events=_losses(worker_exceptions, config)))

    trainer = Trainer(
        _work,
        train_loop_config={"config": config, "on_progress": on_progress},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.num_cpus, **({"GPU": config.gpu_share} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=config.job_id,
            storage_path=str(config.storage_path),
            failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=3),
            callbacks=[Watch()],
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        failed = Unavailable if _is_lost(_innermost(error)) else TrainingFailed
        raise failed(f"Training run {config.job_id} failed: {_root_cause(error)}") from error
    outcome: LuthierError | list[StepRecord] = result.return_value
    if isinstance(outcome, LossDiverged):
        raise LossDiverged(f"{outcome.message} {_last_good(config)}")
    if isinstance(outcome, LuthierError):
        raise outcome
    return _result(config, outcome)


def _files(config: FitConfig) -> RunFiles:
    return RunFiles(config.storage_path / config.job_id)


def _last_good(config: FitConfig) -> str:
    if not (checkpoints := _files(config).checkpoints()):
        return "There is no checkpoint yet."
    step = int(checkpoints[-1].name.partition("-")[2])
    return f"The last good checkpoint is of step {step}: continue_from = '{config.job_id}' goes on from it."


def _result(config: FitConfig, history: list[StepRecord]) -> FitResult:
    last = [record for record in history if record.epoch == history[-1].epoch]
    return FitResult(
        checkpoint_dir=_files(config).checkpoints()[-1],
        history=tuple(history),
        trained_tokens=sum(record.num_tokens for record in history),
        evaluated_tokens=sum(record.evaluated_tokens for record in history),
        training_loss=sum(record.training_loss for record in last) / len(last),
        validation_loss=history[-1].validation_loss,
        fingerprint=_files(config).fingerprint,
    )


def _losses(causes: dict[int, Exception], config: FitConfig) -> list[Event]:
    """What is told of lost workers; those that Ray ended for want of memory ask for less when they start."""
    words = "; ".join(f"worker {rank}: {_root_cause(error)}" for rank, error in causes.items())
    events = [Event(time=now_ms(), type=EventType.WORKER_LOST, message=words)]
    if any(isinstance(_innermost(error), OutOfMemoryError) for error in causes.values()):
        words = f"Passes are halved to {_ease(config)} tokens; the run goes on"
        events.append(Event(time=now_ms(), type=EventType.OUT_OF_MEMORY, message=words))
    return events


def _ease(config: FitConfig) -> int:
    """The tokens that a pass has from now on.

    Where that was found before and was too much yet, activation checkpointing begins too: a process that is killed
    cannot say whether one row filled its memory, which is the host's and on a GPU no activation's.
    """
    files = _files(config)
    known = read_pass_tokens(files.pass_tokens)
    tokens = max(1, (known or config.max_pass_tokens) // 2)
    write_pass_tokens(files.pass_tokens, tokens)
    if known and config.activation_checkpointing == "auto" and not config.use_gpu:
        mark(files.recompute)
    return tokens


def _is_lost(error: BaseException) -> bool:
    """Whether processes or their room are gone, which may be better another time."""
    from ray.train.v2._internal.exceptions import RayTrainError, UserExceptionWithTraceback

    if isinstance(error, UserExceptionWithTraceback):
        return False
    return isinstance(error, RayActorError | OutOfMemoryError | RayTrainError)


def _innermost(error: BaseException) -> BaseException:
    """The error under Ray's wrappers."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        failures = getattr(error, "worker_failures", None)
        inner = next(iter(failures.values()), None) if failures else None
        for name in ("controller_failure", "health_check_failure", "_base_exc", "cause", "__cause__"):
            inner = inner or getattr(error, name, None)
        if isinstance(inner, BaseException):
            error = inner
    return error


def _root_cause(error: BaseException) -> str:
    """The innermost error, in one line."""
    error = _innermost(error)
    # Ray indents the ids of a lost actor by tabs, and puts the trace of one that failed to start into its message.
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    if any(line.startswith("  File ") for line in lines):
        lines = lines[-1:]
    text = " ".join(" ".join(lines).split())
    return f"{type(error).__name__}: {text}"[:500]


def _work(job: dict[str, Any]) -> LuthierError | list[StepRecord]:
    """One worker's process. A LuthierError is handed back, for Ray would try a raised one again."""
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    import ray.train

    context, config = ray.train.get_context(), job["config"]
    cores = len(os.sched_getaffinity(0)) // context.get_local_world_size()
    config = config.model_copy(update={"threads": config.threads or max(1, cores)})
    rank = context.get_world_rank()
    files = _files(config)
    with run_log(files.logs / f"worker-{rank}.log"):
        log.info("process %d starts", os.getpid())
        try:
            from luthier.train.loop import train

            with _Flusher(job["on_progress"]) as flusher:
                return train(config, _worker(files, flusher))
        except LuthierError as error:
            log.error("%s", error.message)
            return error


def _worker(files: RunFiles, flusher: "_Flusher") -> Any:
    import ray.train.collective
    import ray.train.torch

    from luthier.train.run import Worker

    context = ray.train.get_context()
    rank = context.get_world_rank()
    newest = next(reversed(files.checkpoints()), None)
    return Worker(
        rank=rank,
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        resume_from=ray.train.collective.broadcast_from_rank_zero(newest),
        keep_checkpoint=partial(_keep_checkpoint, files),
        report=flusher.add if rank == 0 else _ignore,
        note=flusher.note if rank == 0 else partial(_note_own, flusher, rank),
    )


def _ignore(*_: object) -> None:
    """Ranks above 0 have the same records as rank 0."""


def _note_own(flusher: "_Flusher", rank: int, type: EventType, message: str) -> None:
    """Of a rank above 0 what rank 0 may not meet; all other events are rank 0's too."""
    if type is EventType.OUT_OF_MEMORY:
        flusher.note(type, f"worker {rank}: {message}")


def _keep_checkpoint(files: RunFiles, folder: Path, step: int) -> None:
    """Renames a folder to its place, so that what is there is whole, and removes the oldest.

    Ray Train hears nothing of it: a report of its own waits for all workers, and ends the run when it fails.
    """
    target = files.checkpoint(step)
    if not target.exists():  # else a worker wrote it that was killed before it told of it
        os.replace(folder, target)
    for old in files.checkpoints()[:-NUM_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)


class _Flusher:
    """Hands news to on_progress from a thread of its own, so that no step waits; an error there ends the run.

    Between TRAIN_STARTED and the end each step is timed, from the step before it.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self._send = on_progress
        self._steps: list[TimedStep] = []
        self._events: list[Event] = []
        self._num_steps = 0
        self._began: float | None = None
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
        validated = record.validation_loss is not None
        seconds = time.perf_counter() - self._began if self._began and not validated and not record.answers else None
        with self._lock:
            self._steps.append(TimedStep(record, now_ms(), seconds))
            self._num_steps = num_steps
        if self._began and validated:
            losses = f"training loss {record.training_loss:.4f}, validation loss {record.validation_loss:.4f}"
            self.note(EventType.TRAIN_UPDATED, f"epoch {record.epoch}, step {record.step} of {num_steps}: {losses}")
        self._began = self._began and time.perf_counter()

    def note(self, type: EventType, message: str) -> None:
        log.info("%s %s", type, message)
        with self._lock:
            self._events.append(Event(time=now_ms(), type=type, message=message))
        if type == EventType.TRAIN_STARTED:
            self._began = time.perf_counter()

    def _run(self) -> None:
        try:
            while not self._closed.wait(FLUSH_SECONDS):
                self._flush()
        except Exception as error:  # raised again in the training thread, by add or __exit__
            self._error = error

    def _flush(self) -> None:
        with self._lock:
            steps, self._steps = self._steps, []
            events, self._events = self._events, []
        if steps or events:
            self._send(News(steps, self._num_steps, events))
