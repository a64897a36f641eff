"""Usage of batches and of training names the key that asked, and counts towards its budget."""

from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from luthier.platform.metering import UsageKind
from luthier.platform.registry.registry import Registry
from tests.factories import ledger_of
from tests.flow.batches import chat_line, create_batch, ended
from tests.flow.conftest import create, error_of


def test_batches_and_jobs(api: TestClient, registry: Registry, faq: str, train: Callable[[str], Path]) -> None:
    key = api.get("/luthier/v1/whoami").json()["key"]
    assert key
    train(create(api).json()["id"])
    batch = create_batch(api, [chat_line("a"), chat_line("b")])
    assert ended(api, batch["id"])["request_counts"]["completed"] == 2
    for kind, num in ((UsageKind.TRAINING, 1), (UsageKind.COMPLETION, 2)):
        assert [record.key for record in ledger_of(registry, kind)] == [key] * num


def test_a_keys_budget_holds_for_them(api: TestClient, faq: str) -> None:
    key = api.get("/luthier/v1/whoami").json()["key"]
    assert api.put(f"/luthier/v1/credits/budgets/key/{key}", json={"credits": "0"}).status_code == 200
    assert "The budget of key" in error_of(create(api), 402, "insufficient_credits")
    done = ended(api, create_batch(api, [chat_line("a")])["id"])
    assert done["request_counts"]["failed"] == 1
