"""Keys kept to some models, where a body becomes a model and where names are alike."""

from pathlib import Path

from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.flow.conftest import error_of
from tests.flow.test_import import MODELS, send
from tests.tiny_adapter import change_weights


def test_a_key_for_another_model_replaces_none(api: TestClient, app: FastAPI, adapter: Path) -> None:
    send(api, adapter)
    secret = api.post("/luthier/v1/keys", json={"models": ["other"]}).json()["key"]
    scoped = TestClient(app, headers={"Authorization": f"Bearer {secret}"})
    change_weights(adapter, lambda weights: weights.update({name: one * 2 for name, one in weights.items()}))
    error_of(send(scoped, adapter, new_version=True, promote=True), 403, "not_authorized")
    assert send(scoped, adapter, name="other").status_code == 201


def test_a_key_for_a_base_model_is_for_no_model_of_that_name(api: TestClient, app: FastAPI, adapter: Path) -> None:
    send(api, adapter, name="tiny")
    secret = api.post("/luthier/v1/keys", json={"models": ["tiny"]}).json()["key"]
    scoped = TestClient(app, headers={"Authorization": f"Bearer {secret}"})
    error_of(scoped.delete(f"{MODELS}/tiny"), 403, "not_authorized")
    error_of(scoped.post("/luthier/v1/sql", json={"statement": "DROP MODEL tiny"}), 403, "not_authorized")
    assert scoped.get("/v1/models/tiny").json()["owned_by"] == "tests", "the base model"
