"""TensorBoard's files, read back as TensorBoard reads them."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from luthier.platform.tasks import TaskType
from luthier.train.trackers import TensorBoard, named_metrics
from tests.platform.test_run_files import step

CHAT = TaskType.CHAT_COMPLETION


def events(folder: Path) -> Iterator[Event]:
    """The records of all event files: length, checksum, Event, checksum."""
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def curve(folder: Path, tag: str) -> dict[int, float]:
    return {
        event.step: value.simple_value for event in events(folder) for value in event.summary.value if value.tag == tag
    }


def test_curves(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, CHAT)
    board.add([step(1, loss=2.0), step(2, loss=1.5, validation=1.25)])
    assert curve(tmp_path, "loss/train/total") == {1: 2.0, 2: 1.5}
    assert curve(tmp_path, "metrics/eval/LanguageCrossEntropy") == {2: 1.25}
    assert curve(tmp_path, "lr-DecoupledAdamW/group0") == pytest.approx({1: 5e-4, 2: 5e-4})
    assert curve(tmp_path, "throughput/device/mfu") == {}
    assert [event.wall_time for event in events(tmp_path) if event.step == 2] == [1.002]


def test_a_resumed_run_adds_a_file(tmp_path: Path) -> None:
    TensorBoard(tmp_path, CHAT).add([step(1), step(2, loss=5.0)])
    TensorBoard(tmp_path, CHAT).add([step(2, loss=3.0), step(3)])
    assert set(curve(tmp_path, "loss/train/total")) == {1, 2, 3}


def test_names() -> None:
    named = named_metrics(step(1, validation=0.5)._replace(mfu=0.4), CHAT)
    assert named["metrics/eval/LanguagePerplexity"] == pytest.approx(math.exp(0.5))
    assert named["throughput/device/mfu"] == 0.4
    assert "throughput/tokens_per_sec" not in named_metrics(step(1, speed=None), CHAT)
    assert math.isfinite(named_metrics(step(1, validation=1e9), CHAT)["metrics/eval/LanguagePerplexity"])


def test_a_loss_is_named_by_what_the_task_minimises() -> None:
    named = named_metrics(step(1, loss=0.5, validation=0.25), TaskType.DPO)
    assert (named["metrics/train/DPOLoss"], named["metrics/eval/DPOLoss"]) == (0.5, 0.25)
    assert not any("Language" in name for name in named)
