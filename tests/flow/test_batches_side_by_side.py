"""Batches of several accounts in one process."""

import pytest
from starlette.testclient import TestClient

from luthier.serve.batches.batching import MAX_BATCHES, MAX_OF_ONE
from tests.flow.batches import HeldEngine, chat_line, create_batch, ended, get_batch
from tests.flow.people import Join, join  # noqa: F401
from tests.waiting import wait_for


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


def test_no_account_has_all_places(api: TestClient, engine: HeldEngine, join: Join) -> None:  # noqa: F811
    """Lines may wait for long: of an engine, or by a limit of the account's own for as long as the batch may take."""
    theirs = [create_batch(api, [chat_line("a", "slow")])["id"] for _ in range(MAX_BATCHES + 1)]
    wait_for(lambda: engine.num_waiting == MAX_OF_ONE)
    other = join("ACCOUNTADMIN", account="other")
    ended(other, create_batch(other, [chat_line("a")])["id"])
    begun = [get_batch(api, batch_id)["status"] for batch_id in theirs]
    assert sorted(begun) == ["in_progress"] * MAX_OF_ONE + ["validating"] * (MAX_BATCHES + 1 - MAX_OF_ONE)
    engine.is_open = True
    for batch_id in theirs:
        ended(api, batch_id)
