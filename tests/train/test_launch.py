from pathlib import Path
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from luthier.platform.jobs import EventType
from luthier.platform.run_files import RunFiles
from luthier.train import launch
from luthier.train.config import FitConfig, StepRecord
from luthier.train.launch import _Flusher, _root_cause
from luthier.train.loop import train
from luthier.train.progress import News
from luthier.train.recompute import WORDS
from tests.train.local import Local
from tests.train.test_on_ray import fail


def test_the_innermost_error_is_the_cause() -> None:
    outer, inner = ValueError("outer"), OSError("disk\nfull")
    outer.__cause__ = inner
    assert _root_cause(outer) == "OSError: disk full"


def task_error() -> RayTaskError:
    trace = 'Traceback (most recent call last):\n  File "loop.py", line 1, in train\nValueError: no such column'
    return RayTaskError("train", trace, ValueError("no such\ncolumn"), ip="127.0.0.1")


def user_error() -> RayTaskError:
    """As it arrives from a task: a RayTaskError that is also of the cause's class."""
    return task_error().as_instanceof_cause()


def lost_worker() -> ActorDiedError:
    context = ActorDiedErrorContext(
        class_name="RayTrainWorker", actor_id=b"0" * 16, pid=7, error_message="Its worker process has died."
    )
    return ActorDiedError(context)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (WorkerGroupError("2 failed", {1: user_error(), 3: user_error()}), "ValueError: no such column"),
        (ControllerError(user_error()), "ValueError: no such column"),
        (ControllerError(WorkerGroupError("1 failed", {0: OSError("disk full")})), "OSError: disk full"),
        (WorkerGroupError("1 failed", {0: UserExceptionWithTraceback(KeyError("a"), "trace")}), "KeyError: 'a'"),
        (
            WorkerGroupError("1 failed", {0: WorkerHealthCheckFailedError("unhealthy", failure=lost_worker())}),
            "ActorDiedError: The actor died unexpectedly before finishing this task. Its worker process has died.",
        ),
        (ControllerError(ActorDiedError(task_error())), "ActorDiedError: ValueError: no such column"),
        (WorkerGroupError("1 failed", {0: OutOfMemoryError("Task was killed")}), "OutOfMemoryError: Task was killed"),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), "WorkerGroupStartupTimeoutError: The worker group"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value[:20],
)
def test_the_cause_under_rays_wrappers(error: Exception, cause: str) -> None:
    found = _root_cause(error)
    assert found.startswith(cause)
    assert "\n" not in found
    assert len(found) <= 500


def killed_for_memory(config: FitConfig, times: int) -> RunFiles:
    files = RunFiles(config.storage_path / config.job_id)
    files.logs.mkdir(parents=True)
    for _ in range(times):
        launch._losses({0: OutOfMemoryError("Task was killed")}, config)
    return files


def test_layers_are_computed_again_where_smaller_passes_were_not_enough(config: FitConfig, tmp_path: Path) -> None:
    once = config.model_copy(update={"job_id": "ft_once"})
    assert not killed_for_memory(once, 1).recompute.exists()
    killed_for_memory(config, 2)
    local = Local(tmp_path / "kept")
    train(config, local.worker)
    assert ("MODEL_INITIALIZED", WORDS) in local.events


@pytest.mark.parametrize("asked", [{"activation_checkpointing": "off"}, {"use_gpu": True}], ids=str)
def test_layers_are_not_computed_again_where_that_is_off_or_no_help(config: FitConfig, asked: dict[str, Any]) -> None:
    assert not killed_for_memory(config.model_copy(update=asked), 2).recompute.exists()


def test_workers_that_ray_ended_for_want_of_memory_find_smaller_passes(config: FitConfig) -> None:
    folder = config.storage_path / config.job_id
    folder.mkdir(parents=True)
    for tokens in (config.max_pass_tokens // 2, config.max_pass_tokens // 4):
        events = launch._losses({0: user_error(), 1: OutOfMemoryError("Task was killed")}, config)
        assert [event.type for event in events] == ["WORKER_LOST", "OUT_OF_MEMORY"]
        assert (folder / "pass_tokens").read_text() == str(tokens)
    assert [event.type for event in launch._losses({0: lost_worker()}, config)] == ["WORKER_LOST"]


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (WorkerGroupError("1 failed", {0: lost_worker()}), True),
        (WorkerGroupError("1 failed", {0: OutOfMemoryError("Task was killed")}), True),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), True),
        (WorkerGroupError("1 failed", {0: UserExceptionWithTraceback(KeyError("a"), "trace")}), False),
        (ControllerError(user_error()), False),
    ],
)
def test_lost_processes_may_be_better_another_time(error: Exception, is_lost: bool) -> None:
    assert launch._is_lost(launch._innermost(error)) is is_lost


def record(step: int, validation: float | None = None) -> StepRecord:
    return StepRecord(step=step, epoch=1, training_loss=1.0, validation_loss=validation, num_tokens=1)


def test_the_flusher_hands_on_every_record_in_order() -> None:
    calls: list[list[int]] = []
    with _Flusher(lambda news: calls.append([step.record.step for step in news.steps])) as flusher:
        for step in range(1, 101):
            flusher.add(record(step), 100)
    assert [step for call in calls for step in call] == list(range(1, 101))
    assert len(calls) <= 2


def test_steps_are_timed_from_the_start_of_training() -> None:
    """Not those read from a checkpoint, nor those with an evaluation in them."""
    news: list[News] = []
    with _Flusher(news.append) as flusher:
        flusher.add(record(1, validation=0.5), 4)
        flusher.note("TRAIN_STARTED", "from step 2 of 4")
        flusher.add(record(2), 4)
        flusher.add(record(3, validation=0.25), 4)
        flusher.note("CHECKPOINT_SAVED", "step 3")
        flusher.add(record(4), 4)
    steps = [step for each in news for step in each.steps]
    assert [step.seconds is not None for step in steps] == [False, True, False, True]
    events = [(event.type, event.message) for each in news for event in each.events]
    assert events == [
        ("TRAIN_STARTED", "from step 2 of 4"),
        ("TRAIN_UPDATED", "epoch 1, step 3 of 4: training loss 1.0000, validation loss 0.2500"),
        ("CHECKPOINT_SAVED", "step 3"),
    ]


def test_each_worker_tells_its_own_lack_of_memory() -> None:
    news: list[News] = []
    with _Flusher(news.append) as flusher:
        for type in (EventType.DATA_VALIDATED, EventType.OUT_OF_MEMORY, EventType.TRAIN_STARTED):
            launch._note_own(flusher, 1, type, "words")
    assert [(event.type, event.message) for each in news for event in each.events] == [
        ("OUT_OF_MEMORY", "worker 1: words")
    ]


def test_the_flusher_does_not_hide_a_failing_listener() -> None:
    with pytest.raises(RuntimeError, match="listener"), _Flusher(fail) as flusher:
        flusher.add(record(1), 1)
