"""A model leaves: adapter or whole weights, by HTTP, the client and the command; resumed, checked, never half there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.cli.client import Client
from luthier.errors import Conflict, Unavailable
from luthier.platform.base_models import load_catalog
from luthier.platform.models import ModelVersion
from luthier.platform.options import Method
from luthier.platform.settings import Settings
from luthier.platform.storage import file_sha256
from luthier.platform.weights.adapter_files import WEIGHTS
from luthier.platform.weights.exporting import export_files
from tests.factories import KEY
from tests.flow.conftest import error_of
from tests.flow.test_cli import Run, good, refused, run  # noqa: F401 - a fixture
from tests.flow.test_import import send


@pytest.fixture
def mine(api: TestClient, adapter: Path) -> str:
    """An imported model."""
    assert send(api, adapter).status_code == 201
    return "mine"


@pytest.fixture
def models(server: str) -> Any:
    return luthier.Client(server, KEY).models


UNFILLED = re.compile(r"\{\w*\}|\[More Information Needed\]|\bNone\b|\bnull\b")
"""A place of a template that nothing was put into."""


def front_matter(folder: Path) -> dict[str, Any]:
    matter: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return matter


def test_an_adapter_leaves_with_its_card(models: Any, mine: str, adapter: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    files = models.export(mine, tmp_path / "out", on_bytes=lambda done, total: told.append((done, total)))
    names = ["adapter_config.json", "adapter_model.safetensors", "luthier.json", "README.md"]
    assert [file.name for file in files] == names
    assert (tmp_path / "out" / names[1]).read_bytes() == (adapter / names[1]).read_bytes()
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]
    assert front_matter(tmp_path / "out") == {
        "base_model": "tests/tiny",
        "base_model_relation": "adapter",
        "license": "other",
        "license_name": "none",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["luthier", "lora"],
    }
    assert "imported" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out.part").exists()


def test_whole_weights_leave_and_answer_as_the_adapter(
    models: Any, mine: str, tiny_model: Path, tmp_path: Path
) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    models.export(mine, plain)
    files = models.export(mine, whole, merged=True)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    assert tokenizer.chat_template
    ids = tokenizer("the quick brown fox", return_tensors="pt")["input_ids"]
    settings = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(tiny_model)}))
    with torch.no_grad():
        expected = AutoPeftModelForCausalLM.from_pretrained(plain).merge_and_unload()(ids).logits
        logits = AutoModelForCausalLM.from_pretrained(whole)(ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    manifest = json.loads((whole / "luthier.json").read_text())
    assert manifest["merged"] is True
    assert manifest["sha256"] == {file.name: file_sha256(file) for file in files if file.name != "luthier.json"}
    assert manifest["adapter_sha256"]["adapter_model.safetensors"] == file_sha256(plain / "adapter_model.safetensors")
    matter = front_matter(whole)
    assert (matter["library_name"], matter["base_model_relation"]) == ("transformers", "finetune")


def test_a_trained_model_tells_how_it_was_made(
    api: TestClient, tuned: str, models: Any, settings: Settings, tmp_path: Path
) -> None:
    job = models.get(tuned)["job_id"]
    folder = settings.storage / "adapters" / job
    manifest = {
        "data": {"train_sha256": "aa", "validation_sha256": "bb", "rows": 9, "validation_rows": 1},
        "options": {"max_epochs": 3},
        "trained_tokens": 60,
        "training_loss": 0.5,
        "validation_loss": 0.75,
        "versions": {"torch": "2.0"},
        "sha256": {},
    }
    (folder / "luthier.json").write_text(json.dumps(manifest))
    models.export(tuned, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert UNFILLED.findall(card) == []
    rows = ("| training rows | 9 (SHA-256 `aa`) |", "| validation loss | 0.75 |", "| software | torch 2.0 |")
    for fact in (f"| job | `{job}` |", '"max_epochs": 3', *rows):
        assert fact in card
    assert "LUTHIER.PUBLIC.tuned, version 1" in card


def test_a_folder_that_is_not_empty(models: Any, mine: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(Conflict, match="is not empty"):
        models.export(mine, tmp_path)
    models.export(mine, tmp_path, force=True)
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert (tmp_path / "README.md").is_file()


def test_what_was_cut_off_goes_on(models: Any, mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download, fetched = Client.download, []

    def cut(self: Client, path: str, file: Path, on_bytes: Callable[[int], None]) -> None:
        fetched.append(file.name)
        if len(fetched) == 2:
            raise Unavailable("cut")
        download(self, path, file, on_bytes)

    monkeypatch.setattr(Client, "download", cut)
    with pytest.raises(Unavailable, match="cut"):
        models.export(mine, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    models.export(mine, tmp_path / "out")
    names = [name.removesuffix(".download") for name in fetched]
    assert names == ["adapter_config.json", *["adapter_model.safetensors"] * 2, "luthier.json", "README.md"]


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("at", [100, -1], ids=["in the file", "in its hash"])
def test_a_byte_that_changes_on_the_way(
    models: Any, mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, merged: bool, at: int
) -> None:
    download = Client.download

    def change(self: Client, path: str, file: Path, on_bytes: Callable[[int], None]) -> None:
        download(self, path, file, on_bytes)
        if file.name.endswith(".safetensors.download"):
            content = bytearray(file.read_bytes())
            content[at] ^= 1
            file.write_bytes(content)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(Client, "download", change)
        with pytest.raises(Unavailable, match=r"model\.safetensors did not come as it was sent"):
            models.export(mine, out, merged=merged)
    assert not out.exists()
    assert not list((tmp_path / "out.part").glob("*.safetensors*"))
    models.export(mine, out, merged=merged)
    manifest = json.loads((out / "luthier.json").read_text())
    assert manifest["sha256"] == {file.name: file_sha256(file) for file in out.iterdir() if file.name != "luthier.json"}


def test_a_file_that_is_damaged_in_storage(models: Any, mine: str, settings: Settings, tmp_path: Path) -> None:
    (folder,) = (settings.storage / "adapters").iterdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(Unavailable, match=r"adapter_config\.json did not come"):
        models.export(mine, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exports_that_are_none(api: TestClient, tuned: str, settings: Settings) -> None:
    path = "/luthier/v1/models/tuned/export"
    assert "has no file 'nothing'" in error_of(api.get(f"{path}/nothing"), 404, "not_found")
    (settings.storage / "adapters" / api.get("/luthier/v1/models/tuned").json()["job_id"] / WEIGHTS).unlink()
    assert "adapter_model.safetensors is missing" in error_of(api.get(path, params={"merged": True}), 404, "not_found")
    assert api.get(f"{path}/..%2f..%2fluthier.db").status_code == 404


def test_the_command(run: Run, mine: str, tmp_path: Path) -> None:  # noqa: F811
    out = str(tmp_path / "out")
    lines = good(run("models", "export", f"{mine}@1", out, "--merged")).splitlines()
    assert str(tmp_path / "out" / "model.safetensors") in lines
    assert "is not empty" in refused(run("models", "export", mine, out), 5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert UNFILLED.findall(card) == []
    for fact in ("LUTHIER.PUBLIC.mine, version 1", "[tests/tiny]", "of rank 8 merged", "vllm serve FOLDER"):
        assert fact in card
    good(run("models", "export", mine, out, "--force"))


def test_weights_of_its_own_leave_as_they_are(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "luthier.json"):
        (folder / name).write_text("{}")
    told = {"job_id": "ft_1", "base_model": "tiny", "path": str(folder), "sha256": "a", "rank": 0, "owner": "o"}
    version = ModelVersion(number=1, model="m", version=1, method=Method.FULL, created_on=1, **told)
    base = load_catalog(settings).get("tiny")
    for is_merged in (False, True):
        files = export_files(version, base, tmp_path, is_merged)
        assert [file.name for file in files] == ["config.json", "luthier.json", "model.safetensors", "README.md"]
        assert b"library_name: transformers" in b"".join(files[-1].read())
