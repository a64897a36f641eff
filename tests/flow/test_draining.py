"""Many clients drain a small balance through two replicas at once: to the micro-credit, and no further."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from luthier.platform.credits import Budget, BudgetKind
from luthier.platform.models import ModelVersion
from luthier.platform.prices import load_prices
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.wire import Choice
from luthier.serve import known
from luthier.serve.api import build_api
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from luthier.serve.metering import leasing
from luthier.serve.services import make_services
from tests.factories import ADMIN, KEY, ledger_of
from tests.fakes import EchoEngine, LocalCompletions
from tests.flow.conftest import CHAT, error_of
from tests.waiting import SECONDS

NUM_CLIENTS = 64
HEADERS = {"Authorization": f"Bearer {KEY}"}
PRICES = load_prices(configs_dir() / "prices.toml")


class SlowEngine(EchoEngine):
    """A word at a time, so that answers overlap."""

    async def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]:
        async for piece in super().stream(ask, adapter, tally):
            await asyncio.sleep(0)
            yield piece


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody is told that the registry is away."""
    monkeypatch.setattr(leasing, "PATIENCE_SECONDS", SECONDS)
    monkeypatch.setattr(leasing, "NEW_PATIENCE_SECONDS", SECONDS)
    monkeypatch.setattr(known, "PATIENCE_SECONDS", SECONDS)
    monkeypatch.setattr(known, "NEW_PATIENCE_SECONDS", SECONDS)


@pytest.fixture
def replicas(settings: Settings, registry: Registry) -> list[FastAPI]:
    """Two, each with an engine and leases of its own, over one registry."""
    return [
        build_api(make_services(settings, registry, LocalCompletions(settings, registry, SlowEngine())))
        for _ in range(2)
    ]


def body(number: int, stream: bool = False) -> dict[str, object]:
    words = " ".join(["word"] * (1 + number % 7))
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": 20 + number % 30,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }


async def drain(apps: list[FastAPI], rounds: int) -> list[httpx.Response]:
    """Each client asks so many times, whether it is refused or not."""
    clients = [
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", headers=HEADERS) for app in apps
    ]

    async def client(number: int) -> list[httpx.Response]:
        answers = []
        for turn in range(rounds):
            asked = body(number + turn, stream=(number + turn) % 3 == 0)
            answers.append(await clients[(number + turn) % len(apps)].post(CHAT, json=asked))
        return answers

    found = await asyncio.gather(*(client(number) for number in range(NUM_CLIENTS)))
    return [answer for each in found for answer in each]


def usage_of(answer: httpx.Response) -> tuple[int, int]:
    if answer.headers["content-type"].startswith("application/json"):
        usage = answer.json()["usage"]
    else:
        lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: {")]
        usage = json.loads(lines[-1])["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]


@pytest.mark.parametrize("given", [1, 57, 300, 10_000])
def test_64_clients_drain_a_balance_and_not_a_micro_credit_more(
    replicas: list[FastAPI], registry: Registry, given: int
) -> None:
    registry.credits.top_up(ADMIN, "main", given, "k1")
    answers = asyncio.run(drain(replicas, rounds=4))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 402}
    told = [usage_of(answer) for answer in answers if answer.status_code == 200]
    cost = sum(PRICES.completion_ucr("small", *counts) for counts in told)
    records = ledger_of(registry)
    balance = registry.credits.balance(ADMIN)
    assert len(records) == len(told)
    assert sum(record.amount_ucr for record in records) == cost == balance.spent_ucr <= given
    assert balance.overrun_ucr == 0
    assert balance.available_ucr + balance.leased_ucr == given - cost
    if given < 300:
        assert statuses[402] > 0
    if given == 10_000:
        assert statuses[402] == 0


@pytest.mark.parametrize("kind", list(BudgetKind))
@pytest.mark.parametrize("given", [57, 300])
def test_64_clients_drain_a_budget_and_not_a_micro_credit_more(
    replicas: list[FastAPI], registry: Registry, kind: BudgetKind, given: int
) -> None:
    (key,) = registry.keys.show(ADMIN)
    name = {BudgetKind.ROLE: ADMIN.role, BudgetKind.USER: ADMIN.user, BudgetKind.KEY: key.id}[kind]
    registry.credits.top_up(ADMIN, "main", 10_000, "k1")
    registry.budgets.set(ADMIN, Budget(kind=kind, name=name, granted_ucr=given))
    answers = asyncio.run(drain(replicas, rounds=4))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) <= {200, 402}
    cost = sum(PRICES.completion_ucr("small", *usage_of(answer)) for answer in answers if answer.status_code == 200)
    (budget,) = registry.budgets.show(ADMIN)
    balance = registry.credits.balance(ADMIN)
    assert cost == balance.spent_ucr == budget.spent_ucr <= budget.spent_ucr + budget.reserved_ucr <= given
    assert balance.overrun_ucr == 0
    assert balance.available_ucr + balance.leased_ucr == 10_000 - cost
    if given < 300:
        assert statuses[402] > 0


def test_the_last_micro_credit_can_be_spent(api: TestClient, registry: Registry) -> None:
    """One word in and one out cost one, rounded up."""
    registry.credits.top_up(ADMIN, "main", 3, "k1")
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    assert [api.post(CHAT, json=asked).status_code for _ in range(5)] == [200, 200, 200, 402, 402]
    assert registry.credits.balance(ADMIN).spent_ucr == 3


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "a"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "stream": True}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/api/v2/cortex/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_every_door_says_402(api: TestClient, registry: Registry, path: str, more: dict[str, object]) -> None:
    registry.credits.limit(ADMIN, "main")
    message = error_of(api.post(path, json={"model": "tiny", **more}), 402, "insufficient_credits")
    assert "The account's balance has 0 credits available" in message
    assert ledger_of(registry) == []


def test_snowflakes_door_says_it_in_its_form(api: TestClient, registry: Registry) -> None:
    registry.credits.limit(ADMIN, "main")
    asked = {"model": "tiny", "messages": [{"content": "a"}], "stream": False}
    response = api.post("/api/v2/cortex/inference:complete", json=asked)
    assert (response.status_code, response.json()["error_code"]) == (402, "insufficient_credits")
    assert response.json()["message"].startswith("budget exceeded: The account's balance has 0 credits available")


def test_sql_says_it_too(api: TestClient, registry: Registry) -> None:
    registry.credits.limit(ADMIN, "main")
    statement = "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'hello')"
    refused = api.post("/luthier/v1/sql", json={"statement": statement})
    assert "credits available" in error_of(refused, 402, "insufficient_credits")
