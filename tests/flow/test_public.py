"""Two users as PUBLIC, the role that everybody has: what the one makes beside the schemas is not the other's."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.errors import Conflict
from luthier.platform.registry.registry import Registry
from tests.factories import ADMIN
from tests.flow.conftest import CHAT, SELECT, create, error_of
from tests.flow.isolation import LINE, V1
from tests.flow.people import Join, join, run_all  # noqa: F401 - a fixture
from tests.waiting import wait_for

pytestmark = pytest.mark.stores


@pytest.fixture
def ann(api: TestClient, faq: str, join: Join) -> TestClient:  # noqa: F811
    for privilege in (
        *("USAGE ON DATABASE luthier", "USAGE ON SCHEMA luthier.public", "CREATE MODEL ON SCHEMA luthier.public"),
        f"SELECT ON TABLE {faq}",
    ):
        run_all(api, f"GRANT {privilege} TO ROLE public")
    return join("PUBLIC")


@pytest.fixture
def bob(ann: TestClient, join: Join) -> TestClient:  # noqa: F811
    return join("PUBLIC", "BOB")


def upload(client: TestClient) -> str:
    sent = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", LINE)})
    id: str = sent.json()["id"]
    return id


def begin(client: TestClient, file: str, **headers: str) -> Any:
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    return client.post("/v1/batches", json=body, headers=headers)


def ids(client: TestClient, path: str, name: str = "data") -> list[str]:
    return [each["id"] for each in client.get(path).json()[name]]


def test_files_and_batches(api: TestClient, ann: TestClient, bob: TestClient) -> None:
    file = upload(ann)
    batch = begin(ann, file).json()["id"]
    for client in (ann, api):
        assert file in ids(client, "/v1/files")
        assert ids(client, "/v1/batches") == [batch]
        assert client.get(f"/v1/files/{file}/content").content == LINE
    assert ids(bob, "/v1/files") == ids(bob, "/v1/batches") == []
    for method, path in (
        *(("GET", f"/v1/files/{file}{end}") for end in ("", "/content")),
        *(("DELETE", f"/v1/files/{file}"), ("GET", f"/v1/batches/{batch}"), ("POST", f"/v1/batches/{batch}/cancel")),
    ):
        error_of(bob.request(method, path), 404, "not_found")
    error_of(begin(bob, file), 404, "not_found")
    assert ann.post(f"/v1/batches/{batch}/cancel").status_code in (200, 409), "it may have ended"


def test_a_model_that_is_being_made(ann: TestClient, bob: TestClient) -> None:
    job = create(ann).json()["id"]
    ask = {"model": "tuned", "messages": [{"role": "user", "content": "a"}]}
    assert f"job {job} is making it" in error_of(ann.post(CHAT, json=ask), 404, "model_not_found")
    assert job not in error_of(bob.post(CHAT, json=ask), 404, "model_not_found")


def test_jobs(api: TestClient, ann: TestClient, bob: TestClient) -> None:
    key = {"Idempotency-Key": "k"}
    body = {"model": "anns", "base_model": "tiny", "training_data": SELECT}
    job = ann.post(f"{V1}/jobs", json=body, headers=key).json()["id"]
    assert ann.post(f"{V1}/jobs", json=body, headers=key).json()["id"] == job
    error_of(bob.post(f"{V1}/jobs", json=body, headers=key), 409, "conflict")
    for client, his in ((ann, [job]), (api, [job]), (bob, [])):
        assert ids(client, f"{V1}/jobs", "jobs") == his
        assert f'luthier_jobs{{account="main",status="PENDING"}} {len(his)}' in client.get("/metrics").text
    for part in ("", "/events", "/metrics", "/logs"):
        error_of(bob.get(f"{V1}/jobs/{job}{part}"), 404, "not_found")
    error_of(bob.post(f"{V1}/jobs/{job}/cancel"), 404, "not_found")
    assert ann.post(f"{V1}/jobs/{job}/cancel").status_code == 200


def test_usage(api: TestClient, ann: TestClient, bob: TestClient) -> None:
    for client in (ann, bob):
        assert client.post(CHAT, json={"model": "tiny", "messages": [{"role": "user", "content": "a"}]}).is_success
    for client, his in ((ann, {"ANN"}), (bob, {"BOB"}), (api, {"ANN", "BOB"})):
        rows = client.get(f"{V1}/usage/completions", params={"group_by": "user"}).json()["usage"]
        assert {row["user"] for row in rows} == his


def test_an_idempotency_key_is_its_users_own(ann: TestClient, bob: TestClient) -> None:
    """Others may use the same, and learn nothing by it."""
    key = {"Idempotency-Key": "k"}
    jobs = {create(client, "k", model=model).json()["id"] for client, model in ((ann, "anns"), (bob, "bobs"))}
    batches = {begin(client, upload(client), **key).json()["id"] for client in (ann, bob)}
    assert (len(jobs), len(batches)) == (2, 2)
    assert create(bob, "k", model="bobs").json()["id"] in jobs


def test_another_role_of_his_has_what_he_made_as_public(ann: TestClient, join: Join) -> None:  # noqa: F811
    file = upload(ann)
    assert ids(join("ANALYST"), "/v1/files") == [file]
    assert ids(join("ANALYST", "BOB"), "/v1/files") == []


def test_who_has_a_dropped_users_name_has_nothing_of_his(
    api: TestClient,
    ann: TestClient,
    registry: Registry,
    join: Join,  # noqa: F811
) -> None:
    file = upload(ann)
    batch, job = begin(ann, file).json()["id"], create(ann).json()["id"]
    with pytest.raises(Conflict, match="ANN has 1 unfinished jobs that he began as PUBLIC"):
        registry.users.drop(ADMIN, "ANN")
    assert api.post(f"{V1}/jobs/{job}/cancel").status_code == 200
    wait_for(lambda: registry.batches.ended([batch]))
    registry.users.drop(ADMIN, "ANN")
    again = join("PUBLIC")
    assert again.get(f"{V1}/whoami").json()["user"] == "ANN"
    assert ids(again, "/v1/files") == ids(again, "/v1/batches") == ids(again, f"{V1}/jobs", "jobs") == []
    for path in (f"/v1/files/{file}", f"/v1/batches/{batch}", f"{V1}/jobs/{job}"):
        error_of(again.get(path), 404, "not_found")
        assert api.get(path).status_code == 200
