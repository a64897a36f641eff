"""Databricks' two OpenAI clients, in an environment of their own: they want an OpenAI's client older than ours."""

from pathlib import Path

import pytest

from tests.factories import KEY
from tests.flow.environments import SECONDS, environment, told_by

CLIENTS = ("databricks-sdk==0.156.0", "openai==2.54.0")
DATABRICKS_OPENAI = "databricks-openai==0.18.0"
"""Of which the client needs none of the hundred packages that it depends on."""
SCRIPT = Path(__file__).with_name("databricks_client.py")

pytestmark = [pytest.mark.clients, pytest.mark.timeout(SECONDS)]


def test_databricks_clients(server: str, tuned: str, tmp_path: Path) -> None:
    interpreter = environment(tmp_path, *CLIENTS, alone=DATABRICKS_OPENAI)
    told = told_by(interpreter, SCRIPT, server, KEY)
    assert set(told) == {"get_open_ai_client", "DatabricksOpenAI"}
    for answers in told.values():
        assert answers == {
            "chat": "LUTHIER.PUBLIC.tuned: how are you",
            "chat, streamed": "LUTHIER.PUBLIC.tuned: how",
            "completion": "base: hello",
            "unknown": ["NotFoundError", "model_not_found"],
        }
