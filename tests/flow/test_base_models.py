"""The catalog through the doors: routes, client and command line; and weights fetched onto this machine."""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from rich.console import Console

from luthier.cli import base_models
from luthier.cli.client import Client
from luthier.cli.main import main
from luthier.errors import NotFound
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.api import build_api
from luthier.serve.services import make_services
from tests.factories import BASE_MODEL, KEY, make_settings
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import error_of

LLAMA = "/luthier/v1/base-models/llama3.1-8b"
TERMINAL = 100
ROOT = Path(__file__).parents[2]
LEAVING = """
hf = "a/leaving"
licence = "none"
description = "Leaves tomorrow."
price_class = "small"
context_window = 512
rows_per_epoch = 100
name = "leaving"
retired = {{ after = {day}, replacement = "tiny" }}
"""

Run = Callable[..., Result]


@pytest.fixture
def settings(home: Path, tiny_model: Path) -> Settings:
    """With a second base model, `leaving`, that is there until tomorrow."""
    settings = make_settings(home, tiny_model)
    (home / "base_models" / "leaving.toml").write_text(LEAVING.format(day=tomorrow()))
    return settings


@pytest.fixture
def run(server: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command with the server's URL and key in the environment."""
    monkeypatch.setenv("LUTHIER_URL", server)
    monkeypatch.setenv("LUTHIER_API_KEY", KEY)
    return lambda *words: CliRunner().invoke(main, ["base-models", *words])


def tomorrow() -> str:
    return str(datetime.now(UTC).date() + timedelta(days=1))


def ask(api: TestClient, model: str = "tiny") -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "a b c"}]}
    return api.post("/v1/chat/completions", json=body)


def listed(api: TestClient, **params: Any) -> dict[str, dict[str, Any]]:
    rows = api.get("/luthier/v1/base-models", params=params).json()["base_models"]
    return {row["name"]: row for row in rows}


def good(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_has_what_is_not_retired(api: TestClient) -> None:
    rows = listed(api)
    assert {"tiny", "leaving", "llama3.1-8b", "smollm2-135m"} <= set(rows)
    assert not any(row["is_retired"] for row in rows.values())
    assert [(rows[name]["served"], rows[name]["fetched"]) for name in ("tiny", "mistral-7b")] == [
        (True, True),
        (False, False),
    ]
    assert "will be retired after" in rows["leaving"]["warning"]
    assert rows["tiny"]["warning"] is None
    assert all({"source", "engine"}.isdisjoint(row) for row in rows.values())


def test_the_whole_list_has_the_retired(api: TestClient) -> None:
    rows = listed(api, all=True)
    gone = {name for name, row in rows.items() if row["is_retired"]}
    assert gone == set(rows) - set(listed(api))
    assert rows["llama2-7b"]["retired"] == {"after": "2025-01-07", "replacement": "llama3.1-8b"}
    assert "llama2-7b" in gone


@pytest.mark.parametrize("name", ["llama3.1-8b", "LLAMA3.1-8B", "meta-llama/Meta-Llama-3.1-8B-Instruct"])
def test_one_row_by_all_its_names(api: TestClient, name: str) -> None:
    row = api.get(f"/luthier/v1/base-models/{name}").json()
    assert (row["name"], row["rows_per_epoch"], row["context_window"]) == ("llama3.1-8b", 150_000, 24 * 1024)
    assert (row["parameters"], row["tasks"], row["methods"]) == (
        8_000_000_000,
        ["CHAT_COMPLETION", "INSTRUCTION_FINETUNE", "CONTINUED_PRETRAIN", "DPO"],
        ["lora", "qlora", "full"],
    )
    assert (row["source"], row["serve_gpus"], row["train_gpus"]) == ("hub", 1, 1)
    assert row["engine"]["tensor_parallel_size"] == 1
    assert "path" not in json.dumps(api.get("/luthier/v1/base-models/tiny").json()["source"]).replace('"path"', "")


def test_an_unknown_row(api: TestClient) -> None:
    message = error_of(api.get("/luthier/v1/base-models/meta-llama/Llama-3.1-8"), 404, "not_found")
    assert "Do you mean meta-llama/Llama-3.1-8B" in message


@pytest.mark.parametrize("path", ["/luthier/v1/base-models", LLAMA])
def test_nobody_sees_the_catalog_without_a_key(api: TestClient, path: str) -> None:
    assert api.get(path, headers={"Authorization": "Bearer lt_nobody"}).status_code == 401


@pytest.mark.parametrize("name", ["tiny", "TINY", "tests/tiny"])
def test_a_base_model_answers_to_all_its_names(api: TestClient, name: str) -> None:
    assert ask(api, name).status_code == 200
    (record,) = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert (record["base_model"], record["model"]) == ("tiny", "tiny")


def test_the_client(server: str) -> None:
    client = Client(server, KEY)
    assert len(client.base_models(include_retired=True)) > len(client.base_models()) > 40
    assert client.base_model("mistralai/Mistral-7B-Instruct-v0.2")["name"] == "mistral-7b"
    with pytest.raises(NotFound, match="Do you mean mistral-7b"):
        client.base_model("mistral7b")


def test_the_list_fits_a_terminal(run: Run) -> None:
    shown, everything = good(run("list")), good(run("list", "--all"))
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert all(word in lines["tiny"] for word in ("512", "small", " all ", "served"))
    assert all(word in lines["qwen3-0.6b"] for word in ("600M", "32768", "Apache-2.0"))
    assert f"to {tomorrow()}" in lines["leaving"]
    assert "served only" in lines["gpt-oss-20b"]
    assert "llama2-7b" not in lines
    assert "instruct cpt" in lines["llama3.1-8b-base"]
    assert "retired" in next(line for line in everything.splitlines() if " llama2-7b " in line)
    assert max(map(len, everything.splitlines())) <= TERMINAL


def test_the_list_as_json(run: Run) -> None:
    rows = json.loads(good(run("list", "--json")))
    assert {row["name"] for row in rows} >= {"tiny", "llama3.1-8b"}
    assert len(json.loads(good(run("list", "--all", "--json")))) > len(rows)


def test_showing_one(run: Run) -> None:
    shown = good(run("show", "meta-llama/Meta-Llama-3.1-70B-Instruct"))
    assert all(word in shown for word in ("llama3.1-70b", "Snowflake docs", "13500", "tensor_parallel_size", "DPO"))
    assert json.loads(good(run("show", "llama3.1-70b", "--json")))["max_context_length"] == 131_072
    result = run("show", "llama3.1-70")
    assert (result.exit_code, result.stdout) == (NotFound.exit, "")
    assert "Do you mean llama3.1-70b" in result.stderr


def test_a_retired_base_model_answers_no_more(api: TestClient, settings: Settings, registry: Registry) -> None:
    assert ask(api).status_code == 200
    file = settings.home / "base_models" / "tiny.toml"
    file.write_text('retired = { after = 2025-01-07, replacement = "mistral-7b" }\n' + file.read_text())
    services = make_services(settings, registry, LocalCompletions(settings, registry, EchoEngine()))
    with TestClient(build_api(services), headers=dict(api.headers)) as later:
        message = error_of(ask(later), 410, "base_model_retired")
    assert message == "Base model tiny was retired after 2025-01-07. Use mistral-7b instead."


def test_answers_of_a_base_model_that_will_be_retired_say_so(
    api: TestClient, settings: Settings, registry: Registry
) -> None:
    """Sunset is RFC 8594's."""
    assert "sunset" not in ask(api).headers
    file = settings.home / "base_models" / "tiny.toml"
    file.write_text('retired = { after = 2099-01-07, replacement = "mistral-7b" }\n' + file.read_text())
    services = make_services(settings, registry, LocalCompletions(settings, registry, EchoEngine()))
    with TestClient(build_api(services), headers=dict(api.headers)) as later:
        answer = ask(later)
    assert answer.status_code == 200
    assert answer.headers["sunset"] == "Wed, 07 Jan 2099 23:59:59 GMT"
    assert answer.headers["luthier-warning"].endswith("will be retired after 2099-01-07: move to mistral-7b.")


def test_a_terminal_sees_how_much_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=TERMINAL, highlight=False)
    monkeypatch.setattr(base_models, "Console", lambda **_: console)
    (tmp_path / "before").write_bytes(bytes(5_000))
    with base_models._progress(tmp_path, "tiny") as say:
        say("fetching")
        (tmp_path / "tiny.part").mkdir()
        (tmp_path / "tiny.part" / "weights").write_bytes(bytes(2_000))
    assert "... fetching" in terminal.getvalue()
    assert "2.0/? kB" in terminal.getvalue()


def test_fetching_what_is_there(run: Run, tiny_model: Path) -> None:
    found = json.loads(good(run("fetch", "TINY", "--json")))
    num_bytes = sum(file.stat().st_size for file in tiny_model.iterdir())
    assert found == {"base_model": "tiny", "folder": str(tiny_model), "bytes": num_bytes}
    assert good(run("fetch", "tiny")).startswith(f"Base model tiny is in {tiny_model} (")


def test_fetching_a_folder_that_is_not_there(run: Run, settings: Settings) -> None:
    row = BASE_MODEL.format(path=settings.home / "nowhere").replace("tiny", "gone")
    (settings.home / "base_models" / "gone.toml").write_text(row)
    result = run("fetch", "gone")
    assert result.exit_code == NotFound.exit
    assert f"no config.json in {settings.home}/nowhere" in result.stderr


def test_fetching_when_the_hub_is_out_of_reach(home: Path) -> None:
    with socket.socket() as closed:  # bound, not listening: it refuses
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        environment = {**os.environ, "LUTHIER_HOME": str(home), "LUTHIER_CACHE": str(home / "cache")}
        environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "luthier.cli.main", "base-models", "fetch", "qwen3-0.6b"]
        ran = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert (ran.returncode, ran.stdout) == (6, ""), ran.stderr
    progress, error = ran.stderr.splitlines()
    assert progress == "... fetching base model qwen3-0.6b (once)"
    assert error.startswith("Error: Base model qwen3-0.6b: the Hugging Face hub cannot be reached (")
    assert not [file for file in (home / "cache").rglob("*") if "part" in file.name]
