"""A key that is rotated, or revoked, while an answer streams: the answer goes on and is its user's; the key ends."""

import threading
from collections.abc import AsyncGenerator, Iterator

import httpx
import pytest

from luthier.platform.models import ModelVersion
from luthier.platform.registry.registry import Registry
from luthier.platform.wire import Choice
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from luthier.serve.threads import STORAGE
from tests.factories import KEY, ledger_of
from tests.fakes import EchoEngine
from tests.flow.conftest import CHAT
from tests.waiting import SECONDS, wait_for

KEYS = "/luthier/v1/keys"
WORDS = "one two three four"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": WORDS}], "stream": True}


class Halting(EchoEngine):
    """Says a word, and the others when the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    async def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]:
        async for choices in super().stream(ask, adapter, tally):
            yield choices
            assert await STORAGE.run(self.go_on.wait, SECONDS)


@pytest.fixture
def engine() -> Halting:
    return Halting()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, headers=bearer(KEY), timeout=SECONDS) as client:
        yield client


@pytest.mark.parametrize("door", ["", "/m/tiny"], ids=["gateway", "direct"])
@pytest.mark.parametrize("is_rotated", [True, False], ids=["rotated", "revoked"])
def test_a_stream_of_a_key_that_ends_goes_on(
    client: httpx.Client,
    registry: Registry,
    engine: Halting,
    door: str,
    is_rotated: bool,
) -> None:
    old = client.post(KEYS, json={"name": "ci"}).json()
    with client.stream("POST", f"{door}{CHAT}", json=ASK, headers=bearer(old["key"])) as answer:
        assert answer.status_code == 200
        parts = answer.iter_text()
        text = next(parts)
        if is_rotated:
            new = client.post(f"{KEYS}/{old['id']}/rotate", json={"grace_s": 1}).json()
        else:
            assert client.delete(f"{KEYS}/{old['id']}").status_code == 200
        wait_for(lambda: client.get("/luthier/v1/whoami", headers=bearer(old["key"])).status_code == 401)
        engine.go_on.set()
        text += "".join(parts)
    assert "four" in text
    assert text.endswith("data: [DONE]\n\n")
    wait_for(lambda: ledger_of(registry))
    (record,) = ledger_of(registry)
    assert (record.user, record.key, record.prompt_tokens) == ("admin", old["id"], len(WORDS.split()))
    assert record.completion_tokens > 1
    if is_rotated:
        whole = {**ASK, "stream": False}
        assert client.post(f"{door}{CHAT}", json=whole, headers=bearer(new["key"])).status_code == 200
        wait_for(lambda: {record.key for record in ledger_of(registry)} == {old["id"], new["id"]})
