"""/v1/files over the whole app, with OpenAI's client where it can say it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from luthier.platform.access import hash_key
from luthier.platform.files import BATCH_SECONDS
from luthier.platform.jobs import now_ms
from luthier.platform.registry.paging import Page
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.batches.batching import sweep
from luthier.serve.services import make_services
from tests.factories import ADMIN, KEY
from tests.fakes import Launcher, LocalCompletions
from tests.flow.batches import chat_line, create_batch, left_over, send_file
from tests.flow.conftest import error_of

LINES = b'{"messages": []}\n'


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def other(app: Any, registry: Registry) -> TestClient:
    """Another account."""
    registry.access.add_admin_key("other", hash_key("lt_other"), "lt_oth")
    return TestClient(app, headers={"Authorization": "Bearer lt_other"})


def on_disk(settings: Settings) -> list[Path]:
    return sorted((settings.storage / "files").glob("*"))


def test_the_life_of_a_file(client: openai.OpenAI, settings: Settings) -> None:
    made = client.files.create(file=("rows.jsonl", LINES), purpose="fine-tune")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(LINES),
        "rows.jsonl",
        "fine-tune",
        "processed",
    )
    assert (made.object, made.expires_at, made.id[:5]) == ("file", None, "file-")
    assert client.files.retrieve(made.id) == made == client.files.wait_for_processing(made.id)
    assert client.files.content(made.id).read() == LINES
    assert [path.name for path in on_disk(settings)] == [made.id]
    assert client.files.delete(made.id).deleted
    assert (on_disk(settings), left_over(settings.storage)) == ([], [])
    with pytest.raises(openai.NotFoundError, match="luthier files list"):
        client.files.content(made.id)


def test_lists(client: openai.OpenAI) -> None:
    made = [client.files.create(file=("a.jsonl", LINES), purpose="batch").id for _ in range(3)]
    tune = client.files.create(file=("b.jsonl", LINES), purpose="fine-tune").id
    assert [file.id for file in client.files.list(limit=2)] == [tune, *made[::-1]]
    assert [file.id for file in client.files.list(order="asc", limit=3)] == [*made, tune]
    assert [file.id for file in client.files.list(purpose="batch", limit=2)] == made[::-1]
    assert list(client.files.list(purpose="vision")) == []
    page = client.files.list(limit=1, after=tune)
    assert ([file.id for file in page.data], page.has_more) == ([made[2]], True)


def test_expiry(client: openai.OpenAI) -> None:
    default = client.files.create(file=("a.jsonl", LINES), purpose="batch")
    assert default.expires_at == default.created_at + BATCH_SECONDS
    hour = {"anchor": "created_at", "seconds": 3600}
    given = client.files.create(file=("a.jsonl", LINES), purpose="fine-tune", expires_after=hour)
    assert given.expires_at == given.created_at + 3600


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"}, "seconds"),
        ({"expires_after[anchor]": "created_at"}, "seconds"),
        ({"expires_after[anchor]": "used_at", "expires_after[seconds]": "3600"}, "anchor"),
        ({"more": "1"}, "no file"),
        ({"purpose": "x" * 2000}, "longer"),
        ({"name": "rows.csv"}, ".jsonl"),
        ({"name": "x" * 200 + ".jsonl"}, "200 bytes"),
        ({"content": b""}, "empty"),
    ],
)
def test_refused(api: TestClient, settings: Settings, fields: dict[str, Any], named: str) -> None:
    response = send_file(api, **{"content": LINES, **fields})
    assert named in error_of(response, 400, "invalid_parameter_value")
    assert (on_disk(settings), left_over(settings.storage)) == ([], [])


def test_a_filename_with_control_characters(api: TestClient) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a\x01.jsonl"\r\n\r\n{}\r\n--x--\r\n'
    response = api.post("/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert "control" in error_of(response, 400, "invalid_parameter_value")


def test_one_file_at_a_time(api: TestClient) -> None:
    files = [("file", ("a.jsonl", LINES)), ("file", ("b.jsonl", LINES))]
    response = api.post("/v1/files", files=files, data={"purpose": "batch"})
    assert "send one" in error_of(response, 400, "invalid_parameter_value")


def test_a_file_over_the_limit(api: TestClient, settings: Settings) -> None:
    error_of(send_file(api, b"x" * (settings.max_upload_mib << 20)), 413, "request_too_large")
    assert left_over(settings.storage) == []


def test_other_accounts_files_and_batches_are_not_there(api: TestClient, other: TestClient) -> None:
    batch = create_batch(api, [chat_line("a")])
    file_id = batch["input_file_id"]
    for method, path in (
        ("GET", f"/v1/files/{file_id}"),
        ("GET", f"/v1/files/{file_id}/content"),
        ("DELETE", f"/v1/files/{file_id}"),
        ("GET", f"/v1/batches/{batch['id']}"),
        ("POST", f"/v1/batches/{batch['id']}/cancel"),
    ):
        theirs = error_of(other.request(method, path), 404, "not_found")
        absent = path.replace(file_id, "file-0").replace(batch["id"], "batch_0")
        nobodys = error_of(other.request(method, absent), 404, "not_found")
        assert theirs.replace(file_id, "file-0").replace(batch["id"], "batch_0") == nobodys
    assert [other.get(path).json()["data"] for path in ("/v1/files", "/v1/batches")] == [[], []]
    body = {"input_file_id": file_id, "endpoint": batch["endpoint"], "completion_window": "24h"}
    error_of(other.post("/v1/batches", json=body), 404, "not_found")
    error_of(other.get("/v1/files", params={"after": file_id}), 404, "not_found")


def test_an_expired_file_is_gone(
    app: Any, settings: Settings, launcher: Launcher, completions: LocalCompletions
) -> None:
    idle = TestClient(app, headers={"Authorization": f"Bearer {KEY}"})
    used, unused = create_batch(idle, [chat_line("a")])["input_file_id"], send_file(idle, LINES).json()["id"]
    later = Registry(settings, launcher, lambda: now_ms() + (BATCH_SECONDS + 1) * 1000)
    assert (later.files.show(ADMIN, Page(limit=10)), len(on_disk(settings))) == ([], 2)
    sweep(make_services(settings, later, completions))
    assert [path.name for path in on_disk(settings)] == [used]
    error_of(idle.get(f"/v1/files/{unused}"), 404, "not_found")
