"""What a run leaves in its folder: checkpoints, the metrics of its steps, logs, TensorBoard's files.

Written by train, read by serve. A file there may be growing while it is read.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_type_hints

import pyarrow as pa
from pyarrow import csv

from luthier.platform.weights.fingerprint import FINGERPRINT
from luthier.platform.whole_files import whole_lines, write_whole

MODEL = "model"
"""In a checkpoint: the adapter or weights, for whoever uses them."""


class RunFiles:
    """The names in a run's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.metrics = folder / "metrics.csv"
        self.logs = folder / "logs"
        self.tensorboard = folder / "tensorboard"
        self.answers = folder / "eval_prompts.jsonl"
        self.pass_tokens = folder / "pass_tokens"
        """What memory was found to have room for."""
        self.recompute = folder / "activation_checkpointing"
        """There once memory was found too small without it."""
        self.fingerprint = folder / FINGERPRINT
        """Of the finished model."""

    def checkpoint(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def checkpoints(self) -> list[Path]:
        """The oldest first. All are whole."""
        return sorted(self._folder.glob("step-*"))


class StepMetrics(NamedTuple):
    """A line of metrics.csv. The last three are measured anew when a step is repeated; the others are not."""

    step: int
    epoch: int
    training_loss: float
    validation_loss: float | None
    learning_rate: float
    gradient_norm: float
    num_tokens: int
    time: int
    """Epoch milliseconds."""
    tokens_per_second: float | None
    mfu: float | None
    """Share of the device's peak, 0.0 to 1.0; on a known GPU only."""


_KINDS = get_type_hints(StepMetrics).items()
SCHEMA = pa.schema([(name, pa.int64() if kind is int else pa.float64()) for name, kind in _KINDS])
NUM_MEASURED = 3
HEADER = (",".join(SCHEMA.names) + "\n").encode()


class MetricsWriter:
    """Appends steps, from 1 upward without a gap. One writer a file at a time.

    After a restart a run tells its steps again: one that is there already is kept with the speed it had; one that
    differs takes the place of all lines from there on.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._old = list(whole_lines(file))[1:] if file.exists() else []
        self._num_lines = len(self._old)
        with file.open("ab") as out:
            out.truncate(len(HEADER) + sum(map(len, self._old)) if self._old else 0)  # a line that a kill cut in two
            if not self._old:
                out.write(HEADER)

    def add(self, steps: Iterable[StepMetrics]) -> list[StepMetrics]:
        """The steps that were not there."""
        new = []
        for step in steps:
            at, line = step.step - 1, _line(step)
            assert at <= self._num_lines, f"step {step.step} after {self._num_lines}"
            if at < len(self._old) and _repeated(self._old[at], line):
                continue
            if at < self._num_lines:
                self._cut(at)
            self._num_lines += 1
            new.append(step)
        if new:
            with self._file.open("ab") as out:
                out.write(b"".join(map(_line, new)))
        return new

    def _cut(self, num_lines: int) -> None:
        assert num_lines <= len(self._old), "a step told twice in one process"
        self._old = self._old[:num_lines]
        self._num_lines = num_lines
        os.truncate(self._file, len(HEADER) + sum(map(len, self._old)))


def read_metrics(file: Path, since_step: int = 0, points: int | None = None) -> pa.Table:
    """The steps after one, all or about so many of them: evenly spread, with each that was validated, and the last."""
    try:
        with file.open("rb") as lines:
            lines.seek(_offset_after(lines, since_step))
            text = lines.read()
    except FileNotFoundError:
        return SCHEMA.empty_table()
    text = text[: text.rfind(b"\n") + 1]
    if not text:
        return SCHEMA.empty_table()
    table = csv.read_csv(
        pa.BufferReader(text),
        csv.ReadOptions(column_names=SCHEMA.names, use_threads=False),
        convert_options=csv.ConvertOptions(column_types=SCHEMA),
    )
    return _thinned(table, points) if points and len(table) > points else table


def read_pass_tokens(file: Path) -> int | None:
    """None when memory was never short."""
    return int(file.read_text()) if file.is_file() else None


def write_pass_tokens(file: Path, tokens: int) -> None:
    """Whole or not at all: without it the next worker finds out by itself."""
    with suppress(OSError):
        write_whole(file, str(tokens))


def mark(file: Path) -> None:
    """Leaves an empty file for the next worker, or nothing: without it that one finds out by itself."""
    with suppress(OSError):
        file.touch()


def answer_lines(step: int, prompts: Iterable[str], answers: Iterable[str]) -> str:
    """One JSON line a prompt: step, prompt, answer."""
    named = [
        {"step": step, "prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return "".join(json.dumps(each) + "\n" for each in named)


def read_answers(file: Path) -> list[dict[str, Any]]:
    """What answer_lines wrote, the oldest first."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in whole_lines(file)]


def read_logs(folder: Path, max_bytes: int) -> dict[str, str]:
    """The end of each process's log by the file's name: whole lines, so many bytes at most."""
    return {file.name: _tail(file, max_bytes) for file in sorted(folder.glob("*.log"))}


def _line(step: StepMetrics) -> bytes:
    return (",".join("" if value is None else repr(value) for value in step) + "\n").encode()


def _repeated(old: bytes, new: bytes) -> bool:
    return old.rsplit(b",", NUM_MEASURED)[0] == new.rsplit(b",", NUM_MEASURED)[0]


def _offset_after(lines: BinaryIO, step: int) -> int:
    """Where the first line with a later step begins: bisected, as lines rise in step."""
    low, high = len(HEADER), lines.seek(0, os.SEEK_END)
    if step <= 0 or high <= low:
        return low
    while low < high:
        middle = (low + high) // 2
        line = _first_line(lines, middle)
        if not line.endswith(b"\n") or int(line.split(b",", 1)[0]) > step:
            high = middle
        else:
            low = middle + 1
    lines.seek(low - 1)
    lines.readline()
    return lines.tell()


def _first_line(lines: BinaryIO, offset: int) -> bytes:
    """The first one that begins at an offset or later; empty at the end."""
    lines.seek(offset - 1)
    lines.readline()
    return lines.readline()


def _thinned(table: pa.Table, points: int) -> pa.Table:
    last, stride = len(table) - 1, -(-len(table) // points)
    validated = table["validation_loss"].is_valid().to_pylist()
    return table.take([at for at, is_validated in enumerate(validated) if is_validated or (last - at) % stride == 0])


def _tail(file: Path, max_bytes: int) -> str:
    with file.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - max_bytes))
        if size > max_bytes:
            log.readline()
        return log.read().decode(errors="replace")
