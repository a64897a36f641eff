"""Batches as tests make them: files of lines, an engine that may be held up, and how one comes to its end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from luthier.platform.models import ModelVersion
from luthier.platform.wire import Choice, CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from tests.fakes import EchoEngine
from tests.waiting import SECONDS

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


class HeldEngine(EchoEngine):
    """Prompts with `slow` in them are not answered before the test opens the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.num_waiting = 0
        self.errors: list[Exception] = []
        """Raised for the next requests, one each."""

    async def whole(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> list[Choice]:
        if self.errors:
            raise self.errors.pop()
        self.num_waiting += 1
        try:
            while "slow" in last_of(ask.request) and not self.is_open:
                await asyncio.sleep(0.005)
        finally:
            self.num_waiting -= 1
        return await super().whole(ask, adapter, tally)

    @property
    def asked(self) -> list[str]:
        return [last_of(request) for request in self.requests]


def last_of(request: CompleteRequest) -> str:
    assert request.messages
    return str(request.messages[-1]["content"])


def chat_line(custom_id: str, content: str = "how are you", **body: Any) -> dict[str, Any]:
    asked = {"model": "tiny", "messages": [{"role": "user", "content": content}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def jsonl(lines: list[Any]) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def send_file(api: TestClient, content: bytes, purpose: str = "batch", name: str = "in.jsonl", **fields: str) -> Any:
    return api.post("/v1/files", files={"file": (name, content)}, data={"purpose": purpose, **fields})


def create_batch(api: TestClient, lines: list[Any], endpoint: str = CHAT, **given: Any) -> dict[str, Any]:
    file = send_file(api, jsonl(lines)).json()
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h", **given}
    response = api.post("/v1/batches", json=body)
    assert response.status_code == 200, response.text
    batch: dict[str, Any] = response.json()
    return batch


def get_batch(api: TestClient, batch_id: str) -> dict[str, Any]:
    batch: dict[str, Any] = api.get(f"/v1/batches/{batch_id}").json()
    return batch


def ended(api: TestClient, batch_id: str, status: str = "completed") -> dict[str, Any]:
    """The batch, once it has come to its end."""
    deadline = time.monotonic() + SECONDS
    while (batch := get_batch(api, batch_id))["status"] in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.01)
    assert batch["status"] == status, batch
    return batch


def content(api: TestClient, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file; of none if there is no file."""
    return [json.loads(line) for line in api.get(f"/v1/files/{file_id}/content").text.splitlines()] if file_id else []


def answers(api: TestClient, batch: dict[str, Any]) -> dict[str, str]:
    """What a batch answered, by custom_id, in the order of the file."""
    lines = content(api, batch["output_file_id"])
    texts = [line["response"]["body"]["choices"][0]["message"]["content"] for line in lines]
    return dict(zip((line["custom_id"] for line in lines), texts, strict=True))


def billed(api: TestClient) -> dict[str, tuple[int, int]]:
    """Tokens of each record of the ledger, by its source."""
    usage = api.get("/luthier/v1/usage/completions").json()["usage"]
    assert len({record["source_id"] for record in usage}) == len(usage)
    return {record["source_id"]: (record["prompt_tokens"], record["completion_tokens"]) for record in usage}


def left_over(storage: Path) -> list[str]:
    """What should be there no more when all batches have ended."""
    return [str(path) for folder in ("batches", "uploads") for path in (storage / folder).glob("*")]


@asynccontextmanager
async def at_most(seconds: float = SECONDS) -> AsyncIterator[None]:
    async with asyncio.timeout(seconds):
        yield
