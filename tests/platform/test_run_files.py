"""The files of a run: what survives a kill, and what is read while they grow."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.platform.run_files import (
    HEADER,
    MetricsWriter,
    RunFiles,
    StepMetrics,
    read_logs,
    read_metrics,
)


def step(number: int, loss: float = 1.0, speed: float | None = 10.0, validation: float | None = None) -> StepMetrics:
    return StepMetrics(
        step=number,
        epoch=1,
        training_loss=loss,
        validation_loss=validation,
        learning_rate=5e-4,
        gradient_norm=0.1,
        num_tokens=100,
        time=1_000 + number,
        tokens_per_second=speed,
        mfu=None,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return RunFiles(tmp_path / "runs" / "ft_1").metrics


def losses(file: Path) -> list[float]:
    found: list[float] = read_metrics(file)["training_loss"].to_pylist()
    return found


def test_what_is_written_is_read(file: Path) -> None:
    steps = [step(1, loss=0.1 + 0.2), step(2, speed=None, validation=1e-7)]
    assert MetricsWriter(file).add(steps) == steps
    assert [StepMetrics(**row) for row in read_metrics(file).to_pylist()] == steps


def test_a_resumed_run_keeps_what_it_repeats(file: Path) -> None:
    MetricsWriter(file).add([step(number) for number in range(1, 6)])
    before = file.read_bytes()
    resumed = MetricsWriter(file)
    assert resumed.add([step(number, speed=None) for number in range(1, 4)]) == []
    assert file.read_bytes() == before
    assert resumed.add([step(4, speed=99.0), step(5, speed=99.0), step(6)]) == [step(6)]
    assert file.read_bytes().startswith(before)
    assert read_metrics(file)["step"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_a_repeated_step_that_differs_replaces_all_from_there(file: Path) -> None:
    MetricsWriter(file).add([step(number) for number in range(1, 6)])
    resumed = MetricsWriter(file)
    assert resumed.add([step(1), step(2), step(3, loss=7.0), step(4, loss=8.0)]) == [step(3, 7.0), step(4, 8.0)]
    assert losses(file) == [1.0, 1.0, 7.0, 8.0]
    resumed.add([step(5, loss=9.0)])
    assert losses(file) == [1.0, 1.0, 7.0, 8.0, 9.0]


def test_another_run_of_the_same_job_starts_anew(file: Path) -> None:
    MetricsWriter(file).add([step(1), step(2)])
    MetricsWriter(file).add([step(1, loss=3.0)])
    assert losses(file) == [3.0]


@given(st.integers(0, 300))
def test_a_kill_loses_no_whole_line(tmp_path_factory: pytest.TempPathFactory, num_bytes: int) -> None:
    """A file cut anywhere is read as its whole lines, and goes on after them."""
    file = tmp_path_factory.mktemp("run") / "metrics.csv"
    steps = [step(number, validation=0.5) for number in range(1, 5)]
    MetricsWriter(file).add(steps)
    whole = file.read_bytes()
    file.write_bytes(whole[:num_bytes])
    kept = max(0, whole[:num_bytes].count(b"\n") - 1)
    assert read_metrics(file)["step"].to_pylist() == list(range(1, kept + 1))
    MetricsWriter(file).add(steps)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 257])
def test_reading_on(file: Path, count: int) -> None:
    MetricsWriter(file).add([step(number) for number in range(1, count + 1)])
    for since in range(count + 3):
        assert read_metrics(file, since)["step"].to_pylist() == list(range(since + 1, count + 1))


def test_fewer_points_keep_the_validated_and_the_last(file: Path) -> None:
    steps = [step(number, validation=0.5 if number in (33, 66) else None) for number in range(1, 101)]
    MetricsWriter(file).add(steps)
    kept = read_metrics(file, points=10)["step"].to_pylist()
    assert {33, 66, 100} <= set(kept)
    assert 10 <= len(kept) <= 12
    assert read_metrics(file, 95, points=10)["step"].to_pylist() == [96, 97, 98, 99, 100]
    assert len(read_metrics(file, points=100)) == 100


def test_no_file_and_no_steps(file: Path) -> None:
    assert len(read_metrics(file)) == 0
    MetricsWriter(file)
    assert file.read_bytes() == HEADER
    assert len(read_metrics(file, 5)) == 0


def test_logs(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    assert read_logs(folder, 100) == {}
    folder.mkdir()
    (folder / "worker-0.log").write_text("first line\nsecond line\n")
    (folder / "supervisor.log").write_text("all\n")
    (folder / "worker-0.log.1").write_text("older\n")
    assert read_logs(folder, 15) == {"supervisor.log": "all\n", "worker-0.log": "second line\n"}
