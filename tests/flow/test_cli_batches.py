"""luthier batches and luthier files, against the app behind a real socket."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from starlette.testclient import TestClient

from luthier.cli import batch_objects
from luthier.cli.main import main
from tests.factories import KEY
from tests.flow.batches import chat_line, ended, jsonl

Run = Callable[..., Result]


@pytest.fixture
def run(api: TestClient, server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command; batches are worked on."""
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    monkeypatch.setattr(batch_objects, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(batch_objects, "PAGE", 2)
    return lambda *words: CliRunner().invoke(main, list(words))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_bytes(jsonl([chat_line("a"), chat_line("b", temperature=9)]))
    return file


def test_a_batch_from_file_to_results(run: Run, source: Path, tmp_path: Path) -> None:
    created = run("batches", "create", str(source), "--wait")
    assert created.exit_code == 0, created.output
    assert created.stdout.endswith(": completed, 1 of 2 answered, 1 failed.\n")
    batch_id = created.stdout.split()[1].rstrip(":")
    assert batch_id in run("batches", "list").stdout
    assert "failed          1" in run("batches", "show", batch_id).stdout
    results = run("batches", "results", batch_id, str(tmp_path / "out")).stdout.split()
    assert [Path(path).name for path in results] == [f"{batch_id}_output.jsonl", f"{batch_id}_error.jsonl"]
    assert [json.loads(Path(path).read_text())["custom_id"] for path in results] == ["a", "b"]
    refused = run("batches", "cancel", batch_id)
    assert (refused.exit_code, "is completed" in refused.stderr) == (5, True)


def test_faults_are_shown(run: Run, api: TestClient, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(jsonl([chat_line("a"), chat_line("a")]))
    batch = json.loads(run("batches", "create", str(file), "--json").stdout)
    ended(api, batch["id"], "failed")
    assert "line 2: The custom_id 'a'" in run("batches", "show", batch["id"]).stdout
    assert run("batches", "results", batch["id"], str(tmp_path)).stdout == ""


def test_files(run: Run, source: Path, tmp_path: Path) -> None:
    ids = [json.loads(run("files", "create", str(source), "--json").stdout)["id"] for _ in range(3)]
    assert [file["id"] for file in json.loads(run("files", "list", "--json").stdout)] == ids[::-1]
    copy = tmp_path / "copy.jsonl"
    assert run("files", "download", ids[0], str(copy)).exit_code == 0
    assert copy.read_bytes() == source.read_bytes()
    by_id = run("batches", "create", ids[0], "--wait")
    assert "1 of 2 answered" in by_id.stdout
    assert run("files", "delete", ids[1]).stdout == f"Deleted file {ids[1]}.\n"
    assert run("files", "delete", ids[1]).exit_code == 3
    assert run("files", "create", str(tmp_path / "none.jsonl")).exit_code == 2
