"""Snowpark and snowflake.cortex as they are, in an environment of their own: they want a connector older than ours."""

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from tests.flow.connector import behind_connector
from tests.flow.environments import SECONDS, environment, told_by

CLIENTS = ("snowflake-connector-python==4.8.1", "snowflake-snowpark-python==1.56.0")
CORTEX = "snowflake-ml-python==2.6.0"
"""Of which snowflake.cortex needs none of the 300 MB that it depends on."""
SCRIPT = Path(__file__).with_name("snowpark_client.py")

pytestmark = [pytest.mark.clients, pytest.mark.timeout(SECONDS)]


@pytest.fixture
def doors(app: FastAPI) -> ASGIApp:
    return behind_connector(app)


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("snowflake"), *CLIENTS, alone=CORTEX)


def test_snowflakes_clients(server: str, interpreter: Path) -> None:
    place = urlsplit(server)
    told = told_by(interpreter, SCRIPT, str(place.hostname), str(place.port))
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
