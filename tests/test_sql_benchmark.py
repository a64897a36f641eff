"""The benchmark of SQL's COMPLETE: its command, what both sides are asked, how answers are read; without engines."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner

from benchmarks import sql_complete, sql_offline
from benchmarks.serve_sides import Setup
from benchmarks.sql_complete import Prompts, Side
from benchmarks.sql_offline import Run, Task
from benchmarks.sql_report import report
from luthier.platform.wire import Choice, Chunk, Usage
from luthier.serve.dialects.sql_functions.arguments import details

OFFLINE = ("generate, 0 CPUs kept", "generate, 1 CPUs kept")


def make_run(seconds: float, answers: tuple[str, ...] = ("a", "b")) -> Run:
    num = len(answers)
    return Run(
        seconds=seconds,
        prompt_tokens=5 * num,
        completion_tokens=3 * num,
        answers=answers,
        cpu={"engine": 0.004 * num},
    )


def test_the_command_alternates_its_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, tuple[Prompts, ...]]] = []

    def side(name: str, seconds: float, ledger: str = "") -> Side:
        def run(setup: Setup, warm: Prompts, asked: Sequence[Prompts], tokens: int) -> tuple[tuple[Run, ...], str]:
            assert (setup.engine["max_num_seqs"], setup.engine["max_lora_rank"], len(warm), tokens) == (4, 8, 4, 9)
            started.append((name, tuple(asked)))
            return tuple(make_run(seconds, prompts) for prompts in asked), ledger

        return run

    monkeypatch.setattr(sql_complete, "_luthier", side("ours", 2.0, "exact"))
    monkeypatch.setattr(sql_complete, "_offline", lambda kept, _left_out: side(str(kept), 1.0 + kept))
    out = tmp_path / "result.md"
    given = ["--rows=10", "--tokens=9", "--statements=2", "--max-num-seqs=4", f"--out={out}"]
    done = CliRunner().invoke(sql_complete.main, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [name for name, _ in started] == ["ours", "0", "1", "1", "0", "ours"]
    first, second = started[0][1], started[-1][1]
    assert started[2][1] == first, "all are asked the same"
    assert len({text for prompts in (*first, *second) for text in prompts}) == 40, "and nothing twice"
    text = out.read_text()
    assert re.match(r"# SQL's COMPLETE against vLLM's generate, tiny\n\n\d{4}-\d\d-\d\d, commit .*, ray ", text)
    assert "rows 10, tokens 9, rounds 2, statements 2, max model len 512" in text
    assert "by start: exact, exact." in text
    assert f"- Luthier / {OFFLINE[0]}: **0.50** of the medians' rows/s, 0.50 to 0.50 a statement; 0.50" in text
    assert f"- Luthier / {OFFLINE[1]}: **1.00**" in text


def test_a_disturbed_start_is_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    noise = {"cpu": {"others": 1.0}}
    starts = iter([(make_run(2.0), make_run(2.0).model_copy(update=noise)), (make_run(4.0), make_run(4.0))])
    found, ledger = sql_complete._undisturbed("ours", lambda: (next(starts), "exact"))
    assert ([run.seconds for run in found], ledger) == ([4.0, 4.0], "exact")
    assert "ours: 1.0, 1.0 (disturbed) rows/s exact" in capsys.readouterr().err
    loud = make_run(2.0).model_copy(update=noise)
    with pytest.raises(ClickException, match="ours: other processes disturbed it"):
        sql_complete._undisturbed("ours", lambda: ((loud,), ""))


def test_the_table_tells_tokens_and_other_answers() -> None:
    runs = {"Luthier": [make_run(1.0), make_run(2.0)], OFFLINE[0]: [make_run(1.0), make_run(1.0, ("a", "c"))]}
    text = report("tiny", "rows 2", runs, ["off by (0, 1)"])
    assert "| Luthier | 1.5 (1.0 to 2.0) | 4 (3 to 6) | 20 | 12 | 4 of 4 |" in text
    assert f"| {OFFLINE[0]} | 2.0 (2.0 to 2.0) | 6 (6 to 6) | 20 | 12 | 3 of 4 |" in text
    assert "| Luthier | 4.00 | 0.00 |" in text
    assert "by start: off by (0, 1)." in text


def test_answers_are_read_as_complete_writes_them() -> None:
    usage = Usage(prompt_tokens=5, completion_tokens=3)
    answers = [Chunk(choices=[Choice(index=0, text=text)], usage=usage) for text in "ab"]
    written = [json.dumps(details("bench", answer, is_structured=False)) for answer in answers]
    assert sql_complete._read(written, 1.0, {"engine": 0.008}) == make_run(1.0)


def test_generate_alone_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], Any]] = []

    class Llm:
        def __init__(self, **engine: Any) -> None:
            assert engine == {"model": "tiny"}

        def generate(self, texts: list[str], params: Any, use_tqdm: bool) -> list[SimpleNamespace]:
            calls.append((texts, params))
            answer = SimpleNamespace(token_ids=(1, 2), text="x")
            return [SimpleNamespace(prompt_token_ids=[1] * len(text), outputs=[answer]) for text in texts]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Llm, SamplingParams=dict))
    task = Task(engine={"model": "tiny"}, warm=("w",), asked=(("a", "bc"), ("d",)), tokens=7, mark="none")
    first, second = sql_offline.generate(task)
    assert [texts for texts, _ in calls] == [["w"], ["a", "bc"], ["d"]]
    assert calls[0][1] == {"temperature": 0.0, "max_tokens": 7}
    assert (first.prompt_tokens, first.completion_tokens, first.answers) == (3, 4, ("x", "x"))
    assert second.prompt_tokens == 1
    assert second.speed == 1 / second.seconds
