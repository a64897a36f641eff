"""The registry, and completions that do not wait for it: after a pause, after a change, and while it is away."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import httpx
import pytest

from luthier.platform.access import hash_key, new_key
from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.credits import ALONE_SECONDS
from luthier.platform.data.prompts import load_prompts
from luthier.platform.keys import NewKey
from luthier.platform.models import ModelVersion
from luthier.platform.names import parse_name
from luthier.platform.rates import RateLimit
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.wire import Choice
from luthier.serve import known, resolver
from luthier.serve.adapters.disk import LocalDisk, Original
from luthier.serve.adapters.loading import Loader, Surroundings
from luthier.serve.adapters.turns import Turns
from luthier.serve.api import build_direct
from luthier.serve.asks import Ask
from luthier.serve.complete import Tally
from luthier.serve.doors import auditing, deps
from luthier.serve.engines.inputs import Inputs
from luthier.serve.known import Epoch
from luthier.serve.metering.leasing import QUIET_SECONDS, RENEW_SECONDS, Leasing
from luthier.serve.metering.usage import UsageSpool
from luthier.serve.model_rights import ModelRights
from luthier.serve.resolver import Resolver
from luthier.serve.services import make_services
from luthier.serve.silence import NEW_PATIENCE_SECONDS, PATIENCE_SECONDS
from luthier.serve.threads import REGISTRY
from tests.factories import ADMIN, KEY, add_admin, ledger_of, make_finished, make_job, make_version
from tests.fakes import Clock, EchoEngine, Launcher, LocalCompletions, Way, hanging_storage
from tests.flow.conftest import CHAT
from tests.serve.loading_bench import Engine as Workers
from tests.serve.loading_bench import Letters

TUNED = parse_name("LUTHIER.PUBLIC.TUNED", "", "")
BESIDE = {"versions.epoch", "credits.renew", "rates.renew", "keys.used", "ledger.append"}
SINCE_MS = 1_700_000_000_000 // 60_000 * 60_000
PROMPTLY = PATIENCE_SECONDS + 3.0
MODELS = ["tiny", "tuned"]


class WholeEngine(EchoEngine):
    """It renders prompts and loads adapters as a real one does."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        base = load_catalog(settings).get("tiny")
        self._inputs = Inputs(load_prompts(base_model_dir(settings, base)), 512, 319)
        self.loader: Loader | None = None

    async def stream(self, ask: Ask, adapter: ModelVersion | None, tally: Tally) -> AsyncGenerator[list[Choice], None]:
        await self._inputs.ids(ask.request, is_plain=False)
        if adapter and self.loader:
            await self.loader.hold(adapter)
        async with aclosing(super().stream(ask, adapter, tally)) as pieces:
            async for piece in pieces:
                yield piece


class Replica:
    """Its door, on a clock that a test turns, behind a way to the registry that a test shuts."""

    def __init__(self, settings: Settings, registry: Registry, clock: Clock, home: Path) -> None:
        self.registry, self.clock, self.way = registry, clock, Way(registry)
        verbs = cast(Registry, self.way)
        self.epoch = Epoch(verbs.versions.epoch, self.clock)
        self.spool = UsageSpool(home / "spool", verbs.ledger.append)
        self.engine = WholeEngine(settings)
        self.completions = LocalCompletions(settings, verbs, self.engine, self.epoch)
        self.completions.books.settle = self.spool.settle
        services = make_services(settings, verbs, self.completions, "tiny")
        resolver = Resolver(settings, services.catalog, verbs.versions, self.epoch)
        rights = ModelRights(verbs.accounts, self.epoch)
        self.door = build_direct(replace(services, epoch=self.epoch, resolver=resolver, model_rights=rights))

    async def ask(self, model: str = "tuned", key: str = KEY, **more: Any) -> httpx.Response:
        """Not slower than it may be, whatever comes of it."""
        began = time.monotonic()
        answer = await self.post(model, key, **more)
        assert time.monotonic() - began < PROMPTLY
        return answer

    async def post(self, model: str, key: str, **more: Any) -> httpx.Response:
        transport, headers = httpx.ASGITransport(self.door), {"Authorization": f"Bearer {key}"}
        body = {"model": model, "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 4}
        async with httpx.AsyncClient(transport=transport, base_url="http://luthier", headers=headers) as client:
            return await client.post(CHAT, json=body | more)

    async def statuses(self, key: str = KEY) -> list[int]:
        return [(await self.ask(model, key)).status_code for model in MODELS]

    async def passes(self, seconds: float) -> None:
        """Time goes by, with what a replica does beside its requests."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + RENEW_SECONDS)
            await self.renew()

    async def renew(self) -> None:
        """Of what is under way already nothing would be asked again."""
        while any(purse.flight for leasing in self.leasing for purse in leasing._purses.values()):
            await asyncio.sleep(0.001)
        await asyncio.gather(*(each.renew_all() for each in self.leasing))
        while self.epoch._heard < self.clock.now or self.is_behind():
            await asyncio.sleep(0.001)

    @property
    def leasing(self) -> tuple[Leasing[Any], ...]:
        return self.completions.leases, self.completions.rates

    def is_behind(self) -> bool:
        """Something that is known is yet to be asked again."""
        epoch, now = self.epoch.value, self.clock.now
        return any(kind._is_late(each, epoch, now) for kind in self.epoch._followers for each in kind._known.values())

    @asynccontextmanager
    async def without_registry(self) -> AsyncIterator[None]:
        """It is asked, and says nothing."""
        with self.way.shut(), mock.patch.object(auditing, "NEW_PATIENCE_SECONDS", 0.2):
            asked = [asyncio.create_task(each.renew_all()) for each in self.leasing]
            heard = self.way.asked["versions.epoch"]
            while self.way.asked["versions.epoch"] == heard:
                await asyncio.sleep(0.001)
            yield
        await asyncio.gather(*asked)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch is asked all the time; the clock alone says what is old."""
    monkeypatch.setattr(known, "EACH_SECONDS", 0.001)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(settings: Settings, clock: Clock) -> Registry:
    """By the same clock."""
    registry = Registry(settings, Launcher(), lambda: SINCE_MS + round(clock.now * 1000))
    add_admin(registry)
    return registry


@pytest.fixture
def replica(settings: Settings, registry: Registry, clock: Clock, tmp_path: Path) -> Replica:
    registry.jobs.submit(make_job())
    registry.jobs.tick()
    registry.jobs.finish("ft_1", make_finished())
    return Replica(settings, registry, clock, tmp_path)


@pytest.fixture
def limited(replica: Replica, registry: Registry) -> Replica:
    """By credits."""
    registry.credits.top_up(ADMIN, ADMIN.account, 10**9, "k1")
    return replica


def test_after_a_pause_nothing_is_asked_on_the_way(limited: Replica, registry: Registry) -> None:
    registry.rates.set(ADMIN, RateLimit(model="LUTHIER.PUBLIC.TUNED", requests=10_000, tokens=10**9))

    async def scene() -> None:
        assert await limited.statuses() == [200, 200]
        for pause in (30, 300, QUIET_SECONDS - 20):
            await limited.passes(pause)
            limited.way.asked.clear()
            with limited.way.shut():
                assert await limited.statuses() == [200, 200]
            assert set(limited.way.asked) <= BESIDE
        assert limited.way.asked["credits.renew"] <= 1

    asyncio.run(scene())


def other_key(registry: Registry) -> str:
    key = new_key()
    registry.keys.create(ADMIN, NewKey(id="key_other", hash=hash_key(key), prefix=key[:6]))
    return key


def no_key(registry: Registry) -> None:
    registry.keys.revoke(ADMIN, "key_other")


def no_model(registry: Registry) -> None:
    registry.models.drop(ADMIN, TUNED)


TAKEN = [
    (no_key, deps.FRESH_SECONDS, [401, 401]),
    (no_model, resolver.FRESH_SECONDS, [200, 404]),
]


@pytest.mark.parametrize(("take", "bound", "refused"), TAKEN)
def test_what_was_taken_in_a_pause_ends_in_time(
    replica: Replica, take: Callable[[Registry], None], bound: float, refused: list[int]
) -> None:
    """Also where the registry is silent ever after: it has told that something changed, and not what."""
    key = other_key(replica.registry)

    async def scene() -> None:
        assert await replica.statuses(key) == [200, 200]
        await replica.passes(300)
        take(replica.registry)
        await replica.passes(bound)
        assert await replica.statuses(key) == refused

    asyncio.run(scene())


def test_a_change_that_was_heard_of_is_heeded_without_the_registry(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = other_key(replica.registry)
    monkeypatch.setattr(known, "NEW_PATIENCE_SECONDS", 0.2)

    async def scene() -> None:
        assert await replica.statuses(key) == [200, 200]
        await replica.passes(300)
        monkeypatch.setattr(replica.registry.keys, "authenticate_all", None)  # the reader is away, too
        no_key(replica.registry)
        replica.clock.now += deps.FRESH_SECONDS
        while replica.epoch._heard < replica.clock.now:
            await asyncio.sleep(0.001)
        async with replica.without_registry():
            assert await replica.statuses(key) == [503, 503]

    asyncio.run(scene())


def test_a_known_caller_goes_on_without_the_registry_until_his_leases_end(limited: Replica) -> None:
    async def scene() -> None:
        for _ in range(5):
            assert await limited.statuses() + await limited.statuses() == [200] * 4
            await limited.passes(RENEW_SECONDS)
        async with limited.without_registry():
            for _ in range(12):
                limited.clock.now += RENEW_SECONDS
                assert await limited.statuses() == [200, 200]
            limited.clock.now += 1.5
            for model in MODELS:
                refused = await limited.ask(model)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert await limited.statuses() == [200, 200]

    asyncio.run(scene())
    limited.spool.flush()
    records = ledger_of(limited.registry)
    balance = limited.registry.credits.balance(ADMIN)
    assert len(records) == 2 * (2 * 5 + 12 + 1)
    assert (balance.spent_ucr, balance.overrun_ucr) == (sum(record.amount_ucr for record in records), 0)


def test_a_registry_that_says_that_it_is_away(limited: Replica) -> None:
    async def scene() -> None:
        assert await limited.statuses() == [200, 200]
        await limited.passes(60)
        limited.way.is_away = True
        limited.clock.now += ALONE_SECONDS - 0.5
        assert await limited.statuses() == [200, 200]
        limited.clock.now += 1.0
        assert await limited.statuses() == [503, 503]
        limited.way.is_away = False
        await limited.renew()
        assert await limited.statuses() == [200, 200]

    asyncio.run(scene())


def test_what_was_revoked_just_before_holds_as_long_as_a_lease_and_no_longer(replica: Replica) -> None:
    key = other_key(replica.registry)

    async def scene() -> None:
        assert await replica.statuses(key) == [200, 200]
        await replica.passes(60)
        async with replica.without_registry():
            no_key(replica.registry)
            replica.clock.now += ALONE_SECONDS - 0.5
            assert await replica.statuses(key) == [200, 200]
            replica.clock.now += 1.0
            assert await replica.statuses(key) == [503, 503]
        assert await replica.statuses(key) == [401, 401]

    asyncio.run(scene())


def test_an_unknown_caller_is_not_kept_waiting(replica: Replica) -> None:
    key = other_key(replica.registry)

    async def scene() -> None:
        assert await replica.statuses() == [200, 200]
        async with replica.without_registry():
            replica.clock.now += NEW_PATIENCE_SECONDS
            refused = await replica.ask("tiny", key)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert await replica.statuses() == [200, 200]
        assert await replica.statuses(key) == [200, 200]

    asyncio.run(scene())


def test_a_key_that_expires_does_so_by_this_clock(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    key, now = new_key(), SINCE_MS + 100_000
    monkeypatch.setattr(deps, "now_ms", lambda: now)
    new = NewKey(id="key_short", hash=hash_key(key), prefix=key[:6], expires_on=now + 60_000)
    replica.registry.keys.create(ADMIN, new)

    async def scene() -> None:
        assert await replica.statuses(key) == [200, 200]
        async with replica.without_registry():
            replica.clock.now += 1
            monkeypatch.setattr(deps, "now_ms", lambda: now + 60_001)
            assert (await replica.ask("tiny", key)).status_code == 503  # its refusal is in no audit yet
        assert (await replica.ask("tiny", key)).status_code == 401

    asyncio.run(scene())


def make_cold(replica: Replica, folder: Path) -> None:
    """The model COLD, with files in storage."""
    version = make_version(1, folder / "storage", "weights")
    replica.registry.jobs.submit(make_job(id="ft_2", model="LUTHIER.PUBLIC.COLD"))
    replica.registry.jobs.tick()
    replica.registry.jobs.finish("ft_2", make_finished(version.path, sha256=version.sha256))


def make_loader(replica: Replica, settings: Settings, folder: Path) -> Loader:
    around = Surroundings(replica.way.proofs.report, LocalDisk(folder / "disk", "tiny", 1 << 20))
    return Loader(Workers(), load_catalog(settings).get("tiny"), Letters(), around, Turns(1))


def test_who_is_known_waits_for_no_thread(replica: Replica, settings: Settings, tmp_path: Path) -> None:
    """With tools, and where the adapter is not in memory: a silent registry keeps the threads of those who are new."""
    make_cold(replica, tmp_path)
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}

    async def scene() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(5))  # as Ray does
        assert [(await replica.ask(model)).status_code for model in ("tiny", "cold")] == [200, 200]
        replica.engine.loader = make_loader(replica, settings, tmp_path)
        async with replica.without_registry():
            new = [asyncio.create_task(replica.post("tiny", new_key())) for _ in range(2 * REGISTRY.num)]
            while replica.way.asked["keys.authenticate"] < REGISTRY.num:
                await asyncio.sleep(0.001)
            assert (await replica.ask("tiny", **tools)).status_code == 200
            assert (await replica.ask("cold")).status_code == 200
            assert replica.engine.loader.held() == [2]
            assert not any(each.done() for each in new)
        assert {(await each).status_code for each in new} <= {401, 503}

    asyncio.run(scene())


def test_storage_that_hangs_is_a_503_until_it_goes_on(
    replica: Replica, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Original, "seconds", 0.2)
    make_cold(replica, tmp_path)

    async def scene() -> None:
        replica.engine.loader = make_loader(replica, settings, tmp_path)
        with hanging_storage():
            for _ in range(2):
                refused = await replica.ask("cold")
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
                assert "Storage does not give the files of model" in refused.json()["error"]["message"]
            assert (await replica.ask("tiny")).status_code == 200
        while (await replica.ask("cold")).status_code != 200:
            pass

    asyncio.run(scene())
