"""Tables, models with their artifacts, base models and usage through the native API."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

import luthier
from luthier.platform.names import parse_name
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.sql.sql_engine import SqlEngine, TableFile
from tests.factories import KEY, make_record
from tests.flow.conftest import create, csv_bytes, error_of, sql, upload

TUNED = "/luthier/v1/models/tuned"


def _csv(folder: Path) -> Path:
    file = folder / "rows.csv"
    file.write_bytes(csv_bytes([("a", "b")]))
    return file


def parquet_bytes(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("filename", "body"),
    [
        ("a.csv", b"a,b\n1,x\n2,y\n"),
        ("A.CSV", b"a,b\n1,x\n2,y\n"),
        ("a.jsonl", b'{"a":1,"b":"x"}\n{"a":2,"b":"y"}\n'),
        ("deep/../a.parquet", parquet_bytes(pa.table({"a": [1, 2], "b": ["x", "y"]}))),
    ],
)
def test_a_table_from_a_file(api: TestClient, settings: Settings, filename: str, body: bytes) -> None:
    table = upload(api, "t", body, filename)
    assert (table["name"], table["num_rows"], table["columns"]) == ("LUTHIER.PUBLIC.t", 2, ["a", "b"])
    assert "path" not in table
    assert api.get("/luthier/v1/tables").json() == {"tables": [table]}
    answer = api.post("/luthier/v1/sql", json={"statement": "SELECT * FROM T ORDER BY a"}).json()
    assert answer == {"columns": ["a", "b"], "rows": [[1, "x"], [2, "y"]]}
    assert list((settings.storage / "uploads").iterdir()) == []
    assert api.delete("/luthier/v1/tables/t").json() == table
    assert api.get("/luthier/v1/tables").json() == {"tables": []}
    assert list((settings.storage / "tables").iterdir()) == []
    assert "No table" in error_of(api.delete("/luthier/v1/tables/t"), 404, "not_found")


@pytest.mark.parametrize(
    ("filename", "body", "words"),
    [
        ("a.csv", parquet_bytes(pa.table({"a": [1]})), "a.csv"),
        ("a.csv", b"a,b\n1,2,3\n", "Line 2 of a.csv"),
        ("a.jsonl", b"a,b\n1,x\n", "Line 1 of a.jsonl is not JSON"),
        ("a.jsonl", b'[{"a": 1}]', "JSON array"),
        ("a.parquet", b"a,b\n1,x\n", "not a Parquet file"),
        ("a.parquet", b"PAR1 broken", "a.parquet cannot be read"),
        ("a.xlsx", b"a", "accepted endings"),
        ("", b"a", "accepted endings"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"a,b\n", "no rows"),
    ],
)
def test_a_file_that_is_refused_leaves_nothing(
    api: TestClient, settings: Settings, filename: str, body: bytes, words: str
) -> None:
    response = api.post("/luthier/v1/tables", params={"name": "t", "filename": filename}, content=body)
    message = error_of(response, 400, "invalid_parameter_value")
    assert words in message
    assert str(settings.home) not in message
    assert [file for file in settings.storage.rglob("*") if file.is_file()] == []
    assert api.get("/luthier/v1/tables").json() == {"tables": []}


def test_a_name_that_is_taken(api: TestClient, faq: str, settings: Settings) -> None:
    params = {"name": "FAQ", "filename": "a.csv"}
    message = error_of(api.post("/luthier/v1/tables", params=params, content=b"a\n1\n"), 409, "conflict")
    assert "LUTHIER.PUBLIC.FAQ is there already" in message
    assert len(list((settings.storage / "tables").iterdir())) == 1
    assert sql(api, "SELECT COUNT(*) FROM faq") == 10


def test_a_replaced_table_leaves_no_file(api: TestClient, faq: str, settings: Settings) -> None:
    job = create(api).json()
    (old,) = (settings.storage / "tables").iterdir()
    with SqlEngine([TableFile(parse_name("FAQ", "LUTHIER", "PUBLIC"), old)], "LUTHIER", "PUBLIC") as engine:
        reader = engine.query("SELECT * FROM faq")
        upload(api, "FAQ", b"a\n1\n", replace=True)
        assert reader.read_all().num_rows == 10
    (new,) = (settings.storage / "tables").iterdir()
    assert new != old
    assert sql(api, "SELECT * FROM faq") == 1
    assert pq.read_table(settings.storage / "jobs" / job["id"] / "train.parquet").num_rows == 9


def test_a_bad_name(api: TestClient) -> None:
    response = api.post("/luthier/v1/tables", params={"name": "a b", "filename": "a.csv"}, content=b"a\n1\n")
    assert "double quotes" in error_of(response, 400, "invalid_parameter_value")


def test_a_name_in_quotes(api: TestClient) -> None:
    upload(api, '"my table"', b"a\n1\n")
    assert sql(api, 'SELECT * FROM "my table"') == 1
    assert api.delete('/luthier/v1/tables/"my table"').status_code == 200


ODD_NAMES = [
    '"a / b"',
    '"a/artifacts/b"',
    '"a""/artifacts"',
    '"/"',
    '"50% off?/#1"',
    '"a/../b"',
    '"a\n/b"',
    'luthier."public/x".t',
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_with_a_slash(
    server: str, api: TestClient, faq: str, train: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Through a real socket, as the client sends it."""
    client = luthier.Client(server, KEY)
    if "public/x" in name:
        client.schemas.create('luthier."public/x"')
    client.tables.create(name, _csv(tmp_path))
    assert client.tables.drop(name)["name"].endswith(name.split(".", 1)[-1])
    train(create(api, model=name).json()["id"])
    model = client.models.get(name)
    assert model["model"].endswith(name.split(".", 1)[-1])
    assert [file["name"] for file in client.models.artifacts(name)] == [
        "adapter_model.safetensors",
        "training_results.csv",
    ]
    weights, *_ = client.models.export(name, tmp_path / "out")
    assert weights.read_bytes() == b"weights"
    assert client.models.drop(name) == model
    assert client.models.list() == []


def test_a_path_that_is_no_name(api: TestClient) -> None:
    for path in ("a/b", '"a', '"a"/b', "a/artifacts/b/c"):
        assert "No route" in error_of(api.get(f"/luthier/v1/models/{path}"), 404, "not_found")


def test_floats_that_are_no_numbers(api: TestClient) -> None:
    statement = "SELECT 'NaN'::FLOAT, 'inf'::FLOAT, [1.5::FLOAT, '-inf'::FLOAT], 0.25::FLOAT, NULL::FLOAT, 'NaN'"
    answer = api.post("/luthier/v1/sql", json={"statement": statement})
    assert "NaN" not in answer.text.replace('"NaN"', "").replace("'NaN'", "")
    assert answer.json()["rows"] == [["NaN", "Infinity", [1.5, "-Infinity"], 0.25, None, "NaN"]]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length known", "chunked"])
def test_an_oversized_file(api: TestClient, settings: Settings, is_chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * (1 << 20)

    content = parts() if is_chunked else b"".join(parts())
    response = api.post("/luthier/v1/tables", params={"name": "t", "filename": "a.csv"}, content=content)
    assert "limit of 2 MiB" in error_of(response, 413, "request_too_large")
    assert [file for file in settings.storage.rglob("*") if file.is_file()] == []


def test_a_dropped_table_does_not_reach_its_job(api: TestClient, faq: str, settings: Settings) -> None:
    job = create(api).json()
    api.delete(f"/luthier/v1/tables/{faq}")
    assert pq.read_table(settings.storage / "jobs" / job["id"] / "train.parquet").num_rows == 9


def test_models(api: TestClient, tuned: str) -> None:
    (model,) = api.get("/luthier/v1/models").json()["models"]
    assert (model["model"], model["version"], model["base_model"]) == ("LUTHIER.PUBLIC.tuned", 1, "tiny")
    assert "path" not in model
    assert api.get(TUNED).json() == model
    assert api.get("/luthier/v1/models/LUTHIER.PUBLIC.TUNED").json() == model
    assert api.delete(TUNED).json() == model
    assert api.get("/luthier/v1/models").json() == {"models": []}
    for response in (api.get(TUNED), api.delete(TUNED), api.get(f"{TUNED}/artifacts")):
        assert "No model LUTHIER.PUBLIC.tuned" in error_of(response, 404, "model_not_found")


def test_a_model_that_is_still_made(api: TestClient, faq: str) -> None:
    job = create(api).json()
    for response in (api.get(TUNED), api.get("/v1/models/tuned")):
        assert f"not ready: job {job['id']} is making it (PENDING)" in error_of(response, 404, "model_not_found")


def test_artifacts(api: TestClient, tuned: str) -> None:
    artifacts = api.get(f"{TUNED}/artifacts").json()["artifacts"]
    assert artifacts == [
        {"name": "adapter_model.safetensors", "bytes": 7},
        {"name": "training_results.csv", "bytes": 54},
    ]
    assert api.get(f"{TUNED}/artifacts/adapter_model.safetensors").content == b"weights"
    assert api.get(f"{TUNED}/artifacts/training_results.csv").text.startswith("step,epoch,training_loss")
    assert "no artifact 'nothing'" in error_of(api.get(f"{TUNED}/artifacts/nothing"), 404, "not_found")
    assert api.get(f"{TUNED}/artifacts/%2e%2e").status_code == 404
    assert api.get(f"{TUNED}/artifacts/..%2f..%2fluthier.db").status_code == 404


def test_base_models(api: TestClient) -> None:
    rows = {row["name"]: row for row in api.get("/luthier/v1/base-models").json()["base_models"]}
    assert (rows["tiny"]["served"], rows["smollm2-135m"]["served"]) == (True, False)
    assert {"source", "engine"}.isdisjoint(rows["tiny"])


def test_usage(api: TestClient, tuned: str) -> None:
    body = {"model": tuned, "messages": [{"role": "user", "content": "a b c"}]}
    for _ in range(2):
        assert api.post("/v1/chat/completions", json=body).status_code == 200
    (training,) = api.get("/luthier/v1/usage/finetuning").json()["usage"]
    assert (training["trained_tokens"], training["credits"], training["function"]) == (60, "0.000006", "FINETUNE")
    first, second = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert first["source_id"] != second["source_id"]
    assert (first["model"], first["prompt_tokens"], first["completion_tokens"]) == ("LUTHIER.PUBLIC.tuned", 3, 4)
    sums = {row["kind"]: row for row in api.get("/luthier/v1/usage/credits").json()["usage"]}
    assert (sums["completion"]["records"], sums["completion"]["completion_tokens"]) == (2, 8)
    assert sums["training"]["amount_ucr"] == 6
    grouped = api.get("/luthier/v1/usage/completions", params={"group_by": ["model", "day"]}).json()["usage"]
    assert [(row["model"], row["records"]) for row in grouped] == [("LUTHIER.PUBLIC.tuned", 2)]
    assert api.get("/luthier/v1/usage/completions", params={"until": first["time"]}).json() == {"usage": []}


def test_sums_come_in_pages(api: TestClient, registry: Registry) -> None:
    registry.ledger.append([make_record(f"req_{number}", amount_ucr=number) for number in range(1, 6)])
    asked = {"group_by": "query", "limit": "2"}
    pages: list[list[int]] = []
    while len(pages) < 4:
        answer = api.get("/luthier/v1/usage/completions", params=asked).json()
        pages.append([row["amount_ucr"] for row in answer["usage"]])
        if "next" not in answer:
            break
        asked["after"] = answer["next"]
    assert pages == [[1, 2], [3, 4], [5]]
    told = error_of(api.get("/luthier/v1/usage/credits?after=req_1"), 400, "invalid_parameter_value")
    assert "after" in told


def test_usage_of_nothing(api: TestClient) -> None:
    for kind in ("finetuning", "completions", "credits"):
        assert api.get(f"/luthier/v1/usage/{kind}").json() == {"usage": []}


@pytest.mark.parametrize(
    ("path", "words"),
    [("nothing", "kind"), ("credits?group_by=colour", "group_by"), ("credits?since=yesterday", "since")],
)
def test_usage_that_is_refused(api: TestClient, path: str, words: str) -> None:
    assert words in error_of(api.get(f"/luthier/v1/usage/{path}"), 400, "invalid_parameter_value")


def test_a_table_whose_file_is_gone_is_named(api: TestClient, faq: str, settings: Settings) -> None:
    for file in Path(settings.storage / "tables").iterdir():
        file.unlink()
    response = api.post("/luthier/v1/sql", json={"statement": "SELECT * FROM faq"})
    assert "LUTHIER.PUBLIC.FAQ is missing" in error_of(response, 404, "not_found")


def test_quotes_and_lines_in_a_csv_come_back(api: TestClient) -> None:
    upload(api, "t", csv_bytes([('say "hi", you', "b\nc")]))
    assert sql(api, "SELECT question FROM t") == 'say "hi", you'
