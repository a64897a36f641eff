"""What a kill in the middle of a batch leaves, and the end of its window."""

import asyncio
import dataclasses
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from luthier.platform.jobs import now_ms
from luthier.platform.registry.batches import LEASE_MS
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.serve.batches.batching import Batching, sweep
from luthier.serve.services import Services, make_services
from tests.factories import KEY, add_admin
from tests.fakes import Launcher, LocalCompletions
from tests.flow.batches import (
    HeldEngine,
    answers,
    at_most,
    billed,
    chat_line,
    content,
    create_batch,
    get_batch,
    left_over,
)
from tests.waiting import until

ANSWER = "base: how are you"


class Millis:
    """A clock that a test puts forward."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead


@pytest.fixture
def clock() -> Millis:
    return Millis()


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def services(settings: Settings, registry: Registry, completions: LocalCompletions) -> Services:
    return make_services(settings, registry, completions)


@pytest.fixture
def idle(app: Any) -> TestClient:
    """The API of a process that does not work on batches."""
    return TestClient(app, headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture
def registry(settings: Settings, launcher: Launcher, clock: Millis) -> Registry:
    registry = Registry(settings, launcher, clock)
    add_admin(registry)
    return registry


def num_kept(storage: Path) -> int:
    """Results on disk."""
    return sum(len(part.read_bytes().splitlines()) for part in (storage / "batches").glob("*/*.jsonl"))


def never(*_: object) -> None:
    """What a process that was killed comes to."""


@pytest.mark.parametrize("is_killed", [True, False])
def test_ended_in_the_middle(
    idle: TestClient,
    services: Services,
    engine: HeldEngine,
    clock: Millis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    is_killed: bool,
) -> None:
    """Each line is answered once in the output and once in the ledger; none that was kept is asked again.

    In order, the next need not wait for the end of a lease.
    """
    lines = [chat_line(f"id {at}", f"slow {at}" if at % 2 else f"quick {at}") for at in range(8)]
    batch_id = create_batch(idle, lines)["id"]

    async def begins() -> None:
        async with at_most(), Batching(services, clock).running():
            await until(lambda: engine.num_waiting == 4 and num_kept(settings.storage) == 4)
            if is_killed:
                monkeypatch.setattr(services.registry.batches, "release", never)

    async def goes_on() -> None:
        async with at_most(), Batching(services, clock).running():
            await until(lambda: get_batch(idle, batch_id)["status"] == "completed")

    asyncio.run(begins())
    clock.ahead = LEASE_MS if is_killed else 0
    engine.is_open = True
    asyncio.run(goes_on())
    batch = get_batch(idle, batch_id)
    assert batch["request_counts"] == {"total": 8, "completed": 8, "failed": 0}
    assert list(answers(idle, batch)) == [f"id {at}" for at in range(8)]
    assert billed(idle) == {f"{batch_id}-{at + 1}": (2, 3) for at in range(8)}
    assert sorted(engine.asked) == sorted(line["body"]["messages"][0]["content"] for line in lines)
    assert left_over(settings.storage) == [str(settings.storage / "batches" / batch_id)]
    sweep(services)
    assert left_over(settings.storage) == []


class Killed(BaseException):
    """Nobody catches it."""


class Dying:
    """The registry's verbs on batches; the process dies at a call, before it took effect or after."""

    def __init__(self, verbs: Any, calls_left: int, is_done: bool) -> None:
        self._verbs, self._calls_left, self._is_done = verbs, calls_left, is_done
        self.is_dead = False

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> Any:
            self._calls_left -= 1
            self.is_dead = self._calls_left <= 0
            if self._calls_left == 0 and self._is_done:
                getattr(self._verbs, name)(*args)
            if self.is_dead:
                raise Killed
            return getattr(self._verbs, name)(*args)

        return call


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("at", range(1, 6))
def test_killed_at_any_call(
    idle: TestClient, services: Services, clock: Millis, registry: Registry, at: int, is_done: bool
) -> None:
    batch_id = create_batch(idle, [chat_line("a"), chat_line("b", temperature=9), chat_line("c")])["id"]
    dying = Dying(registry.batches, at, is_done)
    mortal = dataclasses.replace(services, registry=SimpleNamespace(**{**vars(registry), "batches": dying}))

    async def dies() -> None:
        async with at_most(), Batching(mortal, clock).running():
            await until(lambda: dying.is_dead)

    async def goes_on() -> None:
        async with at_most(), Batching(services, clock).running():
            await until(lambda: get_batch(idle, batch_id)["status"] == "completed")

    with suppress(BaseExceptionGroup):
        asyncio.run(dies())
    clock.ahead = LEASE_MS
    asyncio.run(goes_on())
    batch = get_batch(idle, batch_id)
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert answers(idle, batch) == {"a": ANSWER, "c": ANSWER}
    assert [line["custom_id"] for line in content(idle, batch["error_file_id"])] == ["b"]
    assert billed(idle) == {f"{batch_id}-1": (3, 4), f"{batch_id}-3": (3, 4)}


def test_the_window_ends(idle: TestClient, services: Services, engine: HeldEngine, clock: Millis) -> None:
    lines = [chat_line("quick"), chat_line("bad", temperature=9), *(chat_line(f"{at}", "slow") for at in range(300))]
    batch_id = create_batch(idle, lines)["id"]

    async def work() -> None:
        async with at_most(), Batching(services, clock).running():
            await until(lambda: engine.num_waiting and "how are you" in engine.asked)
            clock.ahead = 10**12
            engine.is_open = True
            await until(lambda: get_batch(idle, batch_id)["status"] == "expired")

    asyncio.run(work())
    batch = get_batch(idle, batch_id)
    answered, failed = answers(idle, batch), content(idle, batch["error_file_id"])
    assert answered["quick"] == ANSWER
    assert len(answered) == len(billed(idle)) == batch["request_counts"]["completed"] < 300
    assert failed[0]["response"]["status_code"] == 400
    late = [line["custom_id"] for line in failed[1:]]
    assert {line["error"]["code"] for line in failed[1:]} == {"batch_expired"}
    assert [*answered, *late] == ["quick", *map(str, range(300))]
