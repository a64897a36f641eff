from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.errors import BadDataset
from luthier.platform.prompts import Prompts
from luthier.train.data import encode, read_rows


def test_a_row_becomes_its_chat_prompt_and_its_completion(tiny_model: Path) -> None:
    prompts = Prompts(tiny_model)
    rows = pa.table({"prompt": ["hi", "what?"], "completion": ["hello", "that"]})

    samples = encode(rows, prompts, 100, 100)

    assert samples == [prompts.sample("hi", "hello", 100, 100), prompts.sample("what?", "that", 100, 100)]
    assert samples[0].ids[samples[0].num_prompt :] == (*prompts.encode("hello"), prompts.eos_id)


def test_only_the_two_columns_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "completion": ["b"], "prompt": ["a"]}), tmp_path / "t.parquet")
    assert read_rows(tmp_path / "t.parquet").to_pylist() == [{"prompt": "a", "completion": "b"}]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "answer": ["b"]}), tmp_path / "t.parquet")
    with pytest.raises(BadDataset, match=r"t.parquet has no column completion; it has prompt, answer"):
        read_rows(tmp_path / "t.parquet")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"gone\.parquet"):
        read_rows(tmp_path / "gone.parquet")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"prompt": [], "completion": []}, "no rows"),
        ({"prompt": ["a", "b"], "completion": ["c", None]}, "Row 2"),
        ({"prompt": [1], "completion": ["c"]}, "Row 1"),
    ],
)
def test_rows_that_teach_nothing_are_refused(tiny_model: Path, rows: dict[str, list[object]], said: str) -> None:
    with pytest.raises(BadDataset, match=said):
        encode(pa.table(rows), Prompts(tiny_model), 100, 100)
