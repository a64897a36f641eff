"""Answers to statements with many rows: whole in both forms, in memory or through a file, or an error and no half."""

from pathlib import Path

import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from luthier.platform.settings import Settings
from luthier.platform.sql.sql_files import BATCH_ROWS
from luthier.platform.storage import Storage
from luthier.serve.dialects import sql_body
from luthier.serve.dialects.native_sql import ARROW_STREAM
from luthier.serve.dialects.sql_rows import PIECE_BYTES, PIECE_CELLS, pieces
from tests.flow.conftest import ROWS, error_of

NUM_ROWS = len(ROWS) ** 4
FROM = "FROM faq AS a CROSS JOIN faq AS b CROSS JOIN faq AS c CROSS JOIN faq AS d"
NUMBER = "ROW_NUMBER() OVER (ORDER BY a.question, b.question, c.question, d.question)"


@pytest.mark.parametrize("in_memory", [sql_body.IN_MEMORY, 1000])
def test_many_rows(
    api: TestClient, faq: str, monkeypatch: pytest.MonkeyPatch, in_memory: int, settings: Settings
) -> None:
    assert NUM_ROWS > BATCH_ROWS
    monkeypatch.setattr(sql_body, "IN_MEMORY", in_memory)
    body = {"statement": f"SELECT {NUMBER} AS num, 'ä' || a.answer AS told {FROM} ORDER BY num"}
    answer = api.post("/luthier/v1/sql", json=body)
    assert int(answer.headers["content-length"]) == len(answer.content)
    rows = answer.json()["rows"]
    assert [number for number, _ in rows] == list(range(1, NUM_ROWS + 1))
    assert answer.json()["columns"] == ["num", "told"]
    streamed = api.post("/luthier/v1/sql", json=body, headers={"Accept": ARROW_STREAM})
    assert streamed.headers["content-type"] == ARROW_STREAM
    table = pa.ipc.open_stream(streamed.content).read_all()
    assert [[row["num"], row["told"]] for row in table.to_pylist()] == rows
    assert _files(settings) == []


def test_a_fault_in_the_last_row_is_an_error(
    api: TestClient, faq: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(sql_body, "IN_MEMORY", 1000)
    last = f"CAST(CASE WHEN {NUMBER} = {NUM_ROWS} THEN 'none' ELSE '1' END AS INT)"
    refused = api.post("/luthier/v1/sql", json={"statement": f"SELECT {last} {FROM}"})
    assert "none" in error_of(refused, 422, "sql_compilation_error")
    assert _files(settings) == []


def test_no_rows(api: TestClient, faq: str) -> None:
    answer = api.post("/luthier/v1/sql", json={"statement": "SELECT question FROM faq WHERE question = 'none'"})
    assert answer.json() == {"columns": ["question"], "rows": []}


def test_what_json_has_nothing_for_is_text(api: TestClient) -> None:
    statement = "SELECT X'00AB61', INTERVAL '1 day', [INTERVAL '90.5 seconds'], DATE '2026-11-22', 'NaN'::DOUBLE"
    answer = api.post("/luthier/v1/sql", json={"statement": statement})
    assert answer.json()["rows"] == [["00AB61", "P0M1DT0S", ["P0M0DT90.5S"], "2026-11-22", "NaN"]]


@pytest.mark.parametrize(
    ("values", "num_columns"),
    [([None] * 100_000, 2), ([1] * 50_000, 8), (["x" * 1000] * 5000, 1), (["x" * 10**6, *"y" * 999], 1)],
    ids=["nothing", "numbers", "texts", "one of them long"],
)
def test_rows_go_out_in_small_pieces(values: list[object], num_columns: int) -> None:
    table = pa.table({str(number): pa.array(values) for number in range(num_columns)})
    cut = list(pieces(table.to_reader()))
    assert pa.Table.from_batches(cut).equals(table)
    assert all(piece.num_rows == 1 or piece.nbytes <= PIECE_BYTES for piece in cut)
    assert all(piece.num_rows * num_columns <= PIECE_CELLS for piece in cut)
    assert len(cut) < 40


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int8()),
        pa.large_list(pa.int8()),
        pa.list_(pa.int8(), 100),
        pa.map_(pa.string(), pa.int8()),
        pa.struct({"a": pa.list_(pa.int8())}),
    ],
    ids=str,
)
def test_what_is_within_a_value_counts(kind: pa.DataType) -> None:
    value: object = [1] * 100
    if pa.types.is_map(kind):
        value = [(str(key), 1) for key in range(100)]
    elif pa.types.is_struct(kind):
        value = {"a": value}
    cut = list(pieces(pa.table({"a": pa.array([value] * 1000, type=kind)}).to_reader()))
    assert sum(piece.num_rows for piece in cut) == 1000
    assert max(piece.num_rows for piece in cut) <= PIECE_CELLS / 100


def _files(settings: Settings) -> list[Path]:
    return list(Storage(settings.storage).uploads.iterdir())
