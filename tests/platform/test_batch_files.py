"""A batch's lines as they are read, and its results as they are kept."""

import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from luthier.errors import TooLarge
from luthier.platform import batch_lines
from luthier.platform.batch_lines import check_lines, read_lines
from luthier.platform.batch_results import Results
from luthier.platform.batches import LineResult
from tests.factories import make_record

URL = "/v1/completions"
MIB = 1 << 20


def text(custom_id: str) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m"}})


def fits(_text: bytes) -> None:
    """Any text."""


def test_lines_keep_the_numbers_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(f"\ufeff{text('a')}\n\n   \r\n{text('b')}")
    assert check_lines(file, URL, MIB, fits) == (2, [])
    assert [(line.number, line.custom_id, line.body) for line in read_lines(file, URL, MIB)] == [
        (1, "a", b'{"model": "m"}'),
        (4, "b", b'{"model": "m"}'),
    ]


def test_a_line_over_the_limit_does_not_hide_the_next(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(f"{'x' * 3 * MIB}\n{text('b')}\n{'[' * 100_000}\n")
    total, faults = check_lines(file, URL, MIB, fits)
    assert (total, [(each.line, each.code) for each in faults]) == (
        3,
        [(1, "invalid_json_line"), (3, "invalid_json_line")],
    )


def test_a_line_that_is_too_much_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(f"{text('a')}\n{'[' * 1000}\n{text('b')}\n")

    def check_size(text: bytes) -> None:
        if text.count(b"[") > 100:
            raise TooLarge("The request body has more than 100 brackets.")

    total, faults = check_lines(file, URL, MIB, check_size)
    assert (total, [(each.line, each.message) for each in faults]) == (
        3,
        [(2, "The request body has more than 100 brackets.")],
    )


def test_more_lines_or_faults_than_are_told(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f"{text(str(at))}\n" for at in range(4)))
    with mock.patch.object(batch_lines, "MAX_LINES", 3):
        assert [each.code for each in check_lines(file, URL, MIB, fits)[1]] == ["too_many_tasks"]
    file.write_text("{\n" * 100)
    assert len(check_lines(file, URL, MIB, fits)[1]) == batch_lines.MAX_FAULTS


def result(line: int, said: str, *, failed: bool = False) -> LineResult:
    usage = None if failed else make_record(f"batch_1-{line}")
    return LineResult(line=line, output=json.dumps({"line": line, "said": said}), usage=usage)


def written(results: Results, file: Path, *, failed: bool) -> list[str]:
    num_lines = results.write(file, failed=failed)
    lines = file.read_text().splitlines()
    assert len(lines) == num_lines
    return [json.loads(line)["said"] for line in lines]


def test_results_live_on(tmp_path: Path) -> None:
    """What a torn line says is asked for again."""
    first = Results(tmp_path / "parts", 1)
    first.add(result(3, "c"))
    first.add(result(1, "a", failed=True))
    first.sync()
    first.close()
    part = tmp_path / "parts" / "000001.jsonl"
    part.write_bytes(part.read_bytes() + result(2, "torn").model_dump_json().encode()[:-5])
    second = Results(tmp_path / "parts", 2)
    assert [each.line for each in second.found()] == [1, 3]
    assert (1 in second, 2 in second, len(second), second.num_completed, second.num_failed) == (True, False, 2, 1, 1)
    second.add(result(2, "b"))
    assert [each.line for each in second.found()] == [1, 3]
    assert written(second, tmp_path / "out", failed=False) == ["b", "c"]
    assert written(second, tmp_path / "err", failed=True) == ["a"]


def test_a_late_answer_of_another_process_does_not_count(tmp_path: Path) -> None:
    late, own = Results(tmp_path, 1), Results(tmp_path, 2)
    own.add(result(1, "own"))
    late.add(result(1, "late"))
    late.add(result(2, "only one"))
    third = Results(tmp_path, 3)
    assert written(third, tmp_path / "out", failed=False) == ["own", "only one"]


def test_two_processes_put_the_same_file_together(tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "files" / "out"
    late = Results(parts, 1)
    late.add(result(1, "a"))
    own = Results(parts, 2)

    def meanwhile() -> Iterator[str]:
        assert written(own, out, failed=False) == ["a"]
        yield json.dumps({"said": "expired"})

    assert late.write(out, failed=False, more=meanwhile()) == 2
    assert [json.loads(line)["said"] for line in out.read_text().splitlines()] == ["a", "expired"]


def test_who_is_killed_leaves_nothing_beside_the_files(tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "files" / "out"
    with pytest.raises(ZeroDivisionError):
        Results(parts, 1).write(out, failed=False, more=(str(1 // 0) for _ in "1"))
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("failed", [False, True])
def test_without_lines_there_is_no_file(tmp_path: Path, failed: bool) -> None:
    assert Results(tmp_path / "parts", 1).write(tmp_path / "out", failed=failed) == 0
    assert sorted(tmp_path.glob("out*")) == []
