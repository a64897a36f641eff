"""Calls by handles: a tuned model's requests go to one replica, which has its adapter."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from ray import serve

from luthier.errors import Unavailable
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.options import Method
from luthier.platform.wire import CompleteRequest
from luthier.serve import routing
from luthier.serve.asks import Ask
from luthier.serve.handles import Application
from luthier.serve.routing import HELD, adapter_of, by_adapter, ranked
from tests.factories import ADMIN
from tests.local_ray import local_serve

BARE = Ask("req_1", ADMIN, "COMPLETE", "tiny", CompleteRequest(model="m", prompt="a"))
NUM_MODELS = 16


def ask(number: int, spelling: str = "m", method: Method = Method.LORA) -> Ask:
    told = {"model": "M", "version": 1, "job_id": "ft_1", "base_model": "tiny", "rank": 8, "owner": ADMIN.user}
    version = ModelVersion(number=number, path="p", sha256="ab", method=method, created_on=1, **told)
    resolved = Resolved(name=spelling, base_model="tiny", adapter=version)
    return replace(BARE, resolved=resolved, request=CompleteRequest(model=spelling, prompt="a"))


def test_what_a_call_asks_for() -> None:
    assert [adapter_of(args) for args in ([ask(7)], [[ask(7), ask(8)]], ((ask(7, "Public.M@1"),),))] == [7, 7, 7]
    base = replace(BARE, resolved=Resolved(name="tiny", base_model="tiny"))
    others: list[Any] = [[], [[]], [BARE], [base], ["warm"], [ask(7, method=Method.FULL)]]
    assert [adapter_of(args) for args in others] == [None] * len(others)


def test_a_model_has_one_home_and_few_move() -> None:
    four = dict.fromkeys("abcd", 0)
    homes = {number: ranked(number, four, set())[0] for number in range(200)}
    assert set(homes.values()) == set(four)
    three = dict.fromkeys("abc", 0)
    moved = [number for number, home in homes.items() if ranked(number, three, set())[0] != home]
    assert moved == [number for number, home in homes.items() if home == "d"]


def test_who_holds_the_adapter_comes_first_unless_it_has_too_much() -> None:
    for number in range(20):
        assert ranked(number, {"a": 0, "b": 0, "c": 0}, {"b"})[0] == "b"
        assert ranked(number, {"a": 2, "b": 3, "c": 2}, {"b"})[0] == "b"
        first, *_, last = ranked(number, {"a": 0, "b": 4, "c": 0}, {"b"})
        assert (first != "b", last) == (True, "b")


class Teller:
    """A replica that says who it is, and holds what it is told to."""

    def __init__(self) -> None:
        self._held: list[int] = []

    async def record_routing_stats(self) -> dict[str, list[int]]:
        return {HELD: self._held}

    async def hold(self, number: int) -> str:
        self._held = [number]
        return await self.who(BARE)

    async def who(self, _ask: Ask) -> str:
        return str(serve.get_replica_context().replica_tag)


@pytest.fixture(scope="module")
def tellers() -> Iterator[None]:
    with local_serve():
        options = {"num_replicas": 2, "request_router_config": by_adapter(), "ray_actor_options": {"num_cpus": 0}}
        serve.run(serve.deployment(Teller).options(**options).bind(), name="tellers", route_prefix=None)
        yield


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_serve_obeys(tellers: None) -> None:
    handle = serve.get_app_handle("tellers")

    async def who(asked: Ask) -> str:
        return str(await handle.who.remote(asked))

    async def story() -> None:
        homes = {number: await who(ask(number)) for number in range(NUM_MODELS)}
        assert len(set(homes.values())) == 2
        for spelling in ("m", "PUBLIC.M", "m@1"):
            assert {number: await who(ask(number, spelling)) for number in homes} == homes
        many = Counter([await who(BARE) for _ in range(40)])
        assert len(many) == 2
        other = await handle.hold.remote(99)
        async with asyncio.timeout(60):
            while {await who(ask(99)) for _ in range(6)} != {other}:
                await asyncio.sleep(0.1)
        moved = await until_other(handle, other)
        async with asyncio.timeout(60):
            while {await who(ask(99)) for _ in range(6)} != {moved}:
                await asyncio.sleep(0.1)

    asyncio.run(story())


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_who_finds_no_replica_is_told_so(tellers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "WAIT_SECONDS", 0.5)
    options = {"request_router_config": by_adapter(), "ray_actor_options": {"num_cpus": 0, "resources": {"none": 1}}}
    waiting = serve.deployment(Teller).options(**options).bind()
    serve.run_many([serve.RunTarget(waiting, name="waiting", route_prefix=None)], wait_for_applications_running=False)

    async def story() -> None:
        with pytest.raises(Unavailable):
            await Application("waiting", "tiny").whole(BARE)

    asyncio.run(story())
    serve.delete("waiting")


async def until_other(handle: "serve.handle.DeploymentHandle", first: str) -> str:
    """The adapter leaves the one and is in the other."""
    await handle.broadcast("hold", 0).results_async()
    async with asyncio.timeout(60):
        while (found := str(await handle.hold.remote(99))) == first:
            await handle.broadcast("hold", 0).results_async()
    return found
