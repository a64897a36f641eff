"""Snowpark and snowflake.cortex as they are, in an environment of their own: they want a connector older than ours."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from tests.flow.connector import behind_connector

CLIENTS = ("snowflake-connector-python==4.8.1", "snowflake-snowpark-python==1.56.0")
CORTEX = "snowflake-ml-python==2.6.0"
"""Of which snowflake.cortex needs none of the 300 MB that it depends on."""
SCRIPT = Path(__file__).with_name("snowpark_client.py")
UNREACHABLE = ("dns error", "Failed to fetch", "error sending request", "Network is unreachable", "timed out")

INSTALL_SECONDS, RUN_SECONDS = 300, 200
"""A hundred megabytes from a registry that may be slow; what is imported then is compiled first."""

pytestmark = [pytest.mark.clients, pytest.mark.timeout(3 * INSTALL_SECONDS + RUN_SECONDS)]


@pytest.fixture
def doors(app: FastAPI) -> ASGIApp:
    return behind_connector(app)


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snowflake") / "venv"
    python = folder / "bin" / "python"
    _uv("venv", "--python", sys.executable, str(folder))
    _uv("pip", "install", "--python", str(python), *CLIENTS)
    _uv("pip", "install", "--python", str(python), "--no-deps", CORTEX)
    return python


def _uv(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *words], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode and any(fault in done.stderr for fault in UNREACHABLE):
        pytest.skip(f"NOT TESTED: no registry is reached for Snowflake's clients: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr


def test_snowflakes_clients(server: str, interpreter: Path) -> None:
    place = urlsplit(server)
    run = [str(interpreter), "-W", "ignore", str(SCRIPT), str(place.hostname), str(place.port)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("complete, structured") == '{"a": 1}'
    assert "MidStreamException" in told.pop("complete, cut")
    assert told.pop("complete, guarded").startswith("HTTPError: 400")
    assert told.pop("complete, unknown").startswith("HTTPError: 400")
    (structured,) = {text for (text,) in told.pop("ai_complete, structured")}
    assert json.loads(structured) == {"a": 1}
    details = [json.loads(text) for (text,) in told.pop("ai_complete, all arguments")]
    assert [each["value"]["choices"] for each in details] == [
        [{"messages": f"base: {word}"}] for word in ("hello", "it's")
    ]
    errors = [json.loads(text) for (text,) in told.pop("ai_complete, its error")]
    assert all(each["error"].startswith("unknown model 'nobody'") for each in errors)
    assert told == {
        "complete": "base: how are you",
        "complete, streamed": ["base:", " how", ""],
        "complete, a column": [["base: hello you"], ["base: it's"]],
        "complete, a column with options": [["base: hello"], ["base: it's"]],
        "ai_complete": [["base: hello you"], ["base: it's"]],
        "ai_complete, a prompt": [["base: say hello you"], ["base: say it's"]],
        "ai_complete, unknown": [[None], [None]],
    }
