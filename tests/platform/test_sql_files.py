"""Uploaded files as tables: CSV, JSONL, Parquet, plain text, and those that cannot be read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from luthier.errors import InvalidInput
from luthier.platform.sql.sql_engine import read_file


def uploaded(folder: Path, name: str, content: str | bytes) -> pa.Table:
    path = folder / "upload"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(path, name).read_all()


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("prompt,completion\nhi,12\n", [{"prompt": "hi", "completion": "12"}]),
        ('a,b\r\n"x\ny, ""q""",2\r\n', [{"a": 'x\ny, "q"', "b": 2}]),
        ("a;b\n1.5;x\n2;y\n", [{"a": 1.5, "b": "x"}, {"a": 2.0, "b": "y"}]),
        ("\ufeffa\tb\n007\ttrue\n", [{"a": "007", "b": True}]),
        ("version,a\n1.10,\n", [{"version": "1.10", "a": None}]),
        ("a,b\n#c,2", [{"a": "#c", "b": 2}]),
        ("a,b\n1,2\nx,3\n", [{"a": "1", "b": 2}, {"a": "x", "b": 3}]),
    ],
)
def test_csv(tmp_path: Path, content: str, rows: list[dict[str, object]]) -> None:
    assert uploaded(tmp_path, "data.CSV", content).to_pylist() == rows


def test_long_csv_keeps_every_row(tmp_path: Path) -> None:
    content = "prompt,n\n" + "".join(f'"line\n""{i}""",{i}\n' for i in range(30000)) + "last,x\n"
    table = uploaded(tmp_path, "a.csv", content)
    assert table.num_rows == 30001
    assert table["prompt"][29999].as_py() == 'line\n"29999"'
    assert table["n"].type == pa.string()
    assert pc.max(pc.utf8_length(table["n"])).as_py() == 5


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('{"a":1,"b":"x"}\n\n{"b":"y","c":{"k":[1]}}', [[1, "x", None], [None, "y", '{"k":[1]}']]),
        ('{"prompt":1,"d":"2024-01-01"}\r\n', [["1", "2024-01-01"]]),
        ('{"n":1,"m":"x"}\n{"n":2.5,"m":3}\n', [[1.0, "x"], [2.5, "3"]]),
        ('{"a/b~c\'\\"":"x","t":true}\n', [["x", True]]),
        ('{"a":"two\\nlines \\u00e9"}', [["two\nlines \u00e9"]]),
        ('{"a":18446744073709551615}', [["18446744073709551615"]]),
    ],
)
def test_jsonl(tmp_path: Path, content: str, rows: list[list[object]]) -> None:
    assert [list(row.values()) for row in uploaded(tmp_path, "a.jsonl", content).to_pylist()] == rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.doc", "x", "accepted endings are .csv, .jsonl, .ndjson, .parquet, .txt"),
        ("a", "x", "accepted endings"),
        ("a.csv", "", "empty"),
        ("a.csv", "a,b\n", "no rows"),
        ("a.csv", "\n\n", "no columns"),
        ("a.csv", "a,A\n1,2\n", "column A twice"),
        ("a.csv", "a,\n1,2\n", "Column 2"),
        ("a.csv", b"PAR1\0\1", "binary"),
        ("a.csv", b"a,b\n1,\xff\n", "UTF-8"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "Line 3 of a.csv does not fit: it has 3 fields"),
        ("a.csv", "a,b\n1\n", "it has 1 fields"),
        ("a.csv", 'a,b\n1,2\n"x,3\n4,5\n', "line 3 of a.csv has a quote that is never closed"),
        ("a.csv", 'a,b\n"x" y,1\n', "Line 2 of a.csv"),
        ("a.jsonl", '[{"a":1}]', "JSON array"),
        ("a.jsonl", '[\n{"a":1}\n]', "JSON array"),
        ("a.jsonl", '{"a":1}\n\n{"a":\n', "Line 3 of a.jsonl is not JSON"),
        ("a.jsonl", '{"a":1}\n' + "[" * 30_000, "Line 2 of a.jsonl cannot be read: it is nested too deep"),
        ("a.jsonl", '{"a":1' + "0" * 5_000 + "}\n{", "Line 1 of a.jsonl cannot be read"),
        ("a.ndjson", '{"a":1}\n3\n', "Line 2 of a.ndjson is not a JSON object"),
        ("a.jsonl", b'{"a":"\xff"}', "Line 1 of a.jsonl is not UTF-8"),
        ("a.jsonl", "{}\n", "no columns"),
        ("a.jsonl", '{"a":1,"A":2}', "column A twice"),
        ("a.jsonl", b"\0\1\2", "Line 1"),
        ("a.txt", b"caf\xe9", "The file a.txt is not UTF-8 text (byte 3)"),
        ("a.txt", b"a\0b", "binary content"),
        ("a.txt", " \n", "The file a.txt has no text"),
        ("a.txt", "", "The file a.txt is empty"),
        ("a.parquet", "a,b\n1,2\n", "not a Parquet file"),
        ("a.parquet", "PAR1 and no more", "a.parquet cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        uploaded(tmp_path, name, content)
    assert words in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert "\n" not in caught.value.message


def test_a_text_file_is_one_row_as_it_stands(tmp_path: Path) -> None:
    text = 'a, "b"\r\n\n  \u00e9 <|x|>\n'
    assert uploaded(tmp_path, "notes.TXT", b"\xef\xbb\xbf" + text.encode()).to_pylist() == [{"text": text}]


@pytest.mark.parametrize("column", ["prompt", "completion", "response", "messages", "chosen", "rejected", "text"])
def test_columns_of_training_data_stay_text(tmp_path: Path, column: str) -> None:
    """2 must not be learned as 2.0."""
    assert uploaded(tmp_path, "a.csv", f"id,{column}\n1,2\n2,2.5\n")[column].to_pylist() == ["2", "2.5"]
    assert uploaded(tmp_path, "a.jsonl", f'{{"{column}": 2}}\n{{"{column}": 2.5}}\n')[column].to_pylist() == [
        "2",
        "2.5",
    ]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    rows = pa.table({"prompt": ["a"], "n": [1]})
    pq.write_table(rows, path)
    assert read_file(path, "a.parquet").read_all() == rows
    pq.write_table(rows.slice(0, 0), path)
    with pytest.raises(InvalidInput, match="no rows"):
        read_file(path, "a.parquet")
    pq.write_table(pa.table([[1], [2]], names=["a", "A"]), path)
    with pytest.raises(InvalidInput, match="twice"):
        read_file(path, "a.parquet")
