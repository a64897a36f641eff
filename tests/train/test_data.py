from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.errors import BadDataset
from luthier.platform.data.prompts import Prompts
from luthier.platform.data.rendering import Rendering, render
from luthier.platform.tasks import TaskType
from luthier.train.data import read_examples
from tests.train.rows import rows_of

CHAT = Rendering(task_type=TaskType.CHAT_COMPLETION)


def write(folder: Path, rows: dict[str, list[object]]) -> Path:
    pq.write_table(pa.table(rows), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("task", TaskType)
def test_rows_become_the_examples_of_their_task_in_their_order(
    tiny_model: Path, tmp_path: Path, task: TaskType
) -> None:
    prompts, rows = Prompts(tiny_model), rows_of(task, 7)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    how = Rendering(task_type=task)
    assert read_examples(tmp_path / "t.parquet", prompts, how) == render(rows, prompts, how)


def test_a_row_becomes_its_chat_prompt_and_its_completion(tiny_model: Path, tmp_path: Path) -> None:
    prompts = Prompts(tiny_model)
    file = write(tmp_path, {"prompt": ["hi", "what?"], "completion": ["hello", "that"]})

    (first,), (second,) = read_examples(file, prompts, CHAT)

    head = prompts.chat([{"role": "user", "content": "hi"}])
    assert first.ids == (*head, *prompts.encode("hello"), prompts.eos_id)
    assert first.learned == ((len(head), len(first.ids)),)
    assert prompts.decode(second.ids[slice(*second.learned[0])]) == "that" + prompts.eos_text


def test_only_the_columns_of_the_task_are_read(tiny_model: Path, tmp_path: Path) -> None:
    prompts = Prompts(tiny_model)
    plain = write(tmp_path, {"prompt": ["a"], "completion": ["b"]})
    expected = read_examples(plain, prompts, CHAT)
    mixed = write(tmp_path, {"id": [1], "completion": ["b"], "note": [None], "prompt": ["a"]})
    assert read_examples(mixed, prompts, CHAT) == expected


def test_missing_columns_are_named(tiny_model: Path, tmp_path: Path) -> None:
    file = write(tmp_path, {"prompt": ["a"], "answer": ["b"]})
    with pytest.raises(BadDataset, match=r"t.parquet has the columns prompt, answer; .*prompt and completion"):
        read_examples(file, Prompts(tiny_model), CHAT)


def test_a_missing_file_is_named(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"gone\.parquet"):
        read_examples(tmp_path / "gone.parquet", Prompts(tiny_model), CHAT)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"prompt": [], "completion": []}, "no rows"),
        ({"prompt": ["a", "b"], "completion": ["c", None]}, "Row 2"),
        ({"prompt": [1], "completion": ["c"]}, "Row 1"),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    tiny_model: Path, tmp_path: Path, rows: dict[str, list[object]], said: str
) -> None:
    with pytest.raises(BadDataset, match=said):
        read_examples(write(tmp_path, rows), Prompts(tiny_model), CHAT)


def test_text_without_a_second_token_is_no_row(tiny_model: Path, tmp_path: Path) -> None:
    how = Rendering(task_type=TaskType.CONTINUED_PRETRAIN)
    with pytest.raises(BadDataset, match="no rows"):
        read_examples(write(tmp_path, {"text": [""]}), Prompts(tiny_model), how)
