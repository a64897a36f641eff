"""The training benchmark without TRL: its command, Luthier's side on the tiny model, its tables."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import train
from benchmarks.train_worker import Result, Task, _trl_settings, measure

NUM_ROWS = 8
"""Of each set: three steps of eight rows."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [(f"what is {number} and {number}?", str(2 * number)) for number in range(NUM_ROWS)]
    pairs = [{"question": asked, "answer": told} for asked, told in rows]
    tasks = [{"instruction": asked, "instances": [{"input": "", "output": told}]} for asked, told in rows]
    texts = {
        "gsm8k/train.jsonl": "\n".join(map(json.dumps, pairs)),
        "banking77/train.csv": "\n".join(["text,category", *(f"{asked},{told}" for asked, told in rows)]),
        "self-instruct/seed_tasks.jsonl": "\n".join(map(json.dumps, tasks)),
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def task(tiny_model: Path, tmp_path: Path) -> Task:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"] * 3, "completion": ["c", "d"] * 3}), file)
    return Task(
        by="Luthier",
        mode="",
        precision="fp32",
        base_dir=tiny_model,
        rows_file=file,
        steps=3,
        batch_rows=2,
        device="cpu",
        threads=1,
    )


def test_the_command_compares_and_reports(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(task: Task, _trl_path: Path) -> Result:
        """Of TRL what Luthier does, in twice the time."""
        result = measure(task.model_copy(update={"by": "Luthier"}))
        longer = 1 if task.by == "Luthier" else 2
        return result.model_copy(update={"seconds": tuple(longer * at for at in range(len(result.tokens)))})

    monkeypatch.setattr(train, "_run", run)
    out = tmp_path / "result.md"
    options = {"trl-path": data, "base-dir": tiny_model, "mode": "packing", "device": "cpu", "steps": 3, "threads": 1}
    given = [f"--{name}={value}" for name, value in {**options, "rounds": 1, "out": out}.items()]
    done = CliRunner().invoke(train.main, [str(data), "--mode=padded", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert text in done.output
    assert re.match(r"# Training: Luthier against TRL, tiny, mixed rows\n\n\d{4}-\d\d-\d\d, commit .*, torch ", text)
    names = re.findall(r"^\| (\w+, [^|]*?) \|", text, re.MULTILINE)
    assert {"Luthier, bf16 weights", "Luthier, fp32", "TRL, padded, fp32", "TRL, packing, bf16 autocast"} <= set(names)
    assert "Luthier / TRL, padded, fp32: **2.00** of the medians" in text


def test_a_process_of_its_own_trains_the_same(task: Task, tmp_path: Path) -> None:
    result, expected = train._run_once(task, tmp_path), measure(task)
    assert (len(result.seconds), result.tokens, result.pads) == (3, expected.tokens, (0, 0, 0))
    assert result.losses == pytest.approx(expected.losses, abs=1e-3)
    assert result.speed > 0


def test_a_gpu_has_no_fp32_and_counts_the_wall(task: Task) -> None:
    known = task.model_dump(exclude={"by", "mode", "precision"}) | {"device": "cuda"}
    tasks = train._tasks(known, ("default", "padding_free"))
    assert [(each.mode, each.precision) for each in tasks] == [
        ("", "bf16 weights"),
        ("default", "bf16 autocast"),
        ("padding_free", "bf16 autocast"),
        ("padding_free", "bf16 weights"),
    ]
    assert not any(each.counts_cpu for each in tasks)
    assert not _trl_settings(tasks[-1], [4, 4])["use_cpu"]
