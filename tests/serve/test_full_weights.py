"""Which engine answers for a model with weights of its own, when it is loaded, and what makes room for it."""

import asyncio
import gc
import itertools
import math
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from luthier.errors import AdapterRefused, LuthierError, NotServed, Overloaded, Unavailable
from luthier.platform.jobs import now_ms
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.options import Method
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.wire import Choice, Chunk, CompleteRequest, Usage
from luthier.serve import full_weights, patience
from luthier.serve.adapters.loading import RETRY_SECONDS
from luthier.serve.asks import Ask
from luthier.serve.full_weights import AWAKE_SECONDS, FullWeights, State, application_name, with_full_weights
from luthier.serve.services import make_services
from tests.factories import ADMIN, add_admin, make_finished, make_job, make_settings
from tests.fakes import Clock, EchoEngine, Launcher, LocalCompletions


class Engine:
    """Says who it is. One that is being loaded answers nothing."""

    def __init__(self, name: str, apps: "Applications") -> None:
        self._name, self._apps = name, apps
        self.asks: list[Ask] = []

    async def whole(self, ask: Ask) -> Chunk:
        self.asks.append(ask)
        return Chunk(choices=[Choice(index=0, text=self._name)], usage=Usage(prompt_tokens=1, completion_tokens=1))

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        return [await self.whole(ask) for ask in asks]

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        yield await self.whole(ask)

    async def idle_seconds(self) -> float:
        self._apps.wake(self._name)
        if self._name in self._apps.refused:
            raise AdapterRefused("its model.safetensors is not what was published")
        if self._name in self._apps.loading:
            await asyncio.Event().wait()
        return self._apps.idle.get(self._name, 0.0)


class Applications:
    """In memory. What is asked has a replica."""

    def __init__(self) -> None:
        self.now: dict[str, State] = {}
        self.idle: dict[str, float] = {}
        self.loading: set[str] = set()
        self.refused: set[str] = set()
        self.engines: dict[str, Engine] = {}
        self.starts: list[str] = []
        self.sized: list[str] = []
        self.hanging: dict[str, threading.Event] = {}
        self.lost: set[str] = set()

    def states(self) -> dict[str, State]:
        return dict(self.now)

    def memory(self, version: ModelVersion) -> int:
        self.sized.append(name := application_name(version))
        if name in self.hanging:
            self.hanging[name].wait()
        if name in self.lost:
            raise OSError("storage is gone")
        return len(name)

    def start(self, name: str, version: ModelVersion, memory: int) -> None:
        assert memory == len(name)
        self.starts.append(name)
        self.now[name] = State(0)

    def end(self, name: str) -> None:
        del self.now[name]

    def engine(self, name: str, model: str) -> Engine:
        return self.engines.setdefault(name, Engine(name, self))

    def wake(self, name: str) -> None:
        if name not in self.now:
            raise Unavailable("no such application")
        self.now[name] = replace(self.now[name], num_replicas=1)


class World:
    """A registry with models, and the completions of a door."""

    def __init__(self, settings: Settings) -> None:
        self._registry = Registry(settings, Launcher())
        add_admin(self._registry)
        self.apps, self.clock, self._loop = Applications(), Clock(), asyncio.new_event_loop()
        self._ids = itertools.count()
        completions = LocalCompletions(settings, self._registry, EchoEngine())
        self.services = with_full_weights(make_services(settings, self._registry, completions), self.apps, self.clock)

    def model(self, name: str, method: Method = Method.FULL) -> str:
        """A tuned model; the name of its application."""
        job = make_job(f"ft_{name}", f"LUTHIER.PUBLIC.{name}")
        self._registry.jobs.submit(job, None)
        self._registry.jobs.tick()
        made = make_finished(sha256=name.encode().hex().ljust(64, "0"), method=method)
        self._registry.jobs.finish(job.id, made)
        self._registry.jobs.tick()
        return application_name(self._version(name))

    def refuse(self, name: str, reason: str) -> None:
        """As another door's engine tells the registry."""
        proof = Proof(state=ProofState.REFUSED, reason=reason)
        self._registry.proofs.report(self._version(name).number, proof)

    def _version(self, name: str) -> ModelVersion:
        return next(each for each in self._registry.models.show(ADMIN) if each.model.endswith(name))

    def ask(self, model: str, is_streamed: bool = False) -> str:
        return self._loop.run_until_complete(self._ask(model, is_streamed))

    def close(self) -> None:
        self._loop.close()

    def ask_many(self, models: list[str]) -> list[str]:
        """At once; as a statement asks, whose one name may have a canary."""
        return self._loop.run_until_complete(self._ask_many(models))

    def errors(self, model: str, num: int) -> list[BaseException]:
        """Of so many requests at once."""

        async def ask() -> list[BaseException]:
            return await asyncio.gather(*(self._ask(model, False) for _ in range(num)), return_exceptions=True)

        return self._loop.run_until_complete(ask())

    def ask_many_after(self, model: str, num: int) -> list[str]:
        """While so many wait."""

        async def ask() -> list[str]:
            waiting = [asyncio.create_task(self._ask(model, False)) for _ in range(num)]
            await asyncio.sleep(0)
            answers = await self._ask_many([model, model])
            await asyncio.wait(waiting)
            return answers

        return self._loop.run_until_complete(ask())

    async def _ask_many(self, models: list[str]) -> list[str]:
        asks = [self._request(model, await self.services.base_model_of(ADMIN, model)) for model in models]
        answers = await self.services.completions.many(asks)
        return [answer.choices[0].text for answer in answers if isinstance(answer, Chunk)]

    async def _ask(self, model: str, is_streamed: bool) -> str:
        ask = self._request(model, await self.services.base_model_of(ADMIN, model))
        if not is_streamed:
            return (await self.services.completions.whole(ask)).choices[0].text
        return "".join([c.text async for chunk in self.services.completions.stream(ask) for c in chunk.choices])

    def _request(self, model: str, base_model: str) -> Ask:
        request = CompleteRequest(model=model, prompt="the fox")
        return Ask(f"req_{next(self._ids)}", ADMIN, "COMPLETE", base_model, request)


@pytest.fixture
def world(home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(full_weights, "ANSWER_SECONDS", 0.05)
    world = World(make_settings(home, tiny_model, max_full_models=2, full_model_wait_s=0.05))
    yield world
    world.close()


def test_each_kind_of_model_has_its_engine(world: World) -> None:
    full = world.model("whole")
    world.model("tuned", Method.LORA)
    for is_streamed in (False, True):
        assert world.ask("whole", is_streamed) == full
        assert world.ask("tuned", is_streamed) == "LUTHIER.PUBLIC.tuned: the fox"
        assert world.ask("tiny", is_streamed) == "base: the fox"
    assert world.apps.starts == [full]


def test_the_engine_is_told_the_version_that_chose_it(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    (ask,) = world.apps.engines[full].asks
    assert ask.resolved
    assert ask.resolved.weights
    assert application_name(ask.resolved.weights) == full


def test_its_base_model_need_not_be_served(world: World, home: Path, tiny_model: Path) -> None:
    full = world.model("whole")
    world.services = replace(
        world.services, settings=world.services.settings.model_copy(update={"serve_base_models": ()})
    )
    assert world.ask("whole") == full
    with pytest.raises(NotServed, match="not served here"):
        world.ask("tiny")


def test_a_request_waits_a_while_and_the_loading_goes_on(world: World) -> None:
    full = world.model("whole")
    world.apps.loading.add(full)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"whole is being loaded\. Try again"):
            world.ask("whole")
    assert world.apps.now[full].num_replicas == 1
    world.apps.loading.clear()
    assert world.ask("whole") == full
    assert world.apps.starts == [full]


def num_places(world: World) -> int:
    """That one account can have."""
    engine = world.services.catalog.get("tiny").engine
    return max(engine.max_num_seqs, math.ceil((engine.max_num_seqs + engine.max_queued) / 2))


def test_no_more_wait_than_will_find_a_place(world: World) -> None:
    full = world.model("whole")
    world.apps.loading.add(full)
    errors = world.errors("whole", num_places(world) + 7)
    refused = [error for error in errors if isinstance(error, Overloaded)]
    assert len(refused) == 7
    assert {error.retry_after for error in refused} == {1}
    assert str(refused[0]).startswith(f"The model is being loaded: {num_places(world)} requests wait for it, ")
    world.apps.loading.clear()
    assert world.ask("whole") == full


def test_a_statement_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    full = world.model("whole")
    world.apps.loading.add(full)

    async def pause(_seconds: float) -> None:
        world.apps.loading.clear()
        await asyncio.sleep(0.1)

    monkeypatch.setattr(patience, "asyncio", SimpleNamespace(sleep=pause))
    answers = world.ask_many_after("whole", num_places(world))
    assert answers == [full, full]


def test_one_that_idled_is_woken(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    world.apps.now[full] = State(0)
    world.clock.now += 5
    assert world.ask("whole") == full
    assert (world.apps.now[full].num_replicas, world.apps.starts) == (1, [full, full])


def test_the_longest_idle_makes_room(world: World) -> None:
    old, older, new = (world.model(name) for name in ("old", "older", "new"))
    world.ask("old"), world.ask("older")
    world.apps.idle = {old: 100.0, older: 200.0}
    assert world.ask("new") == new
    assert set(world.apps.now) == {old, new}
    world.clock.now += 5
    world.apps.idle = {old: 100.0, new: 0.0}
    assert world.ask("older") == older
    assert set(world.apps.now) == {new, older}


def test_none_at_work_makes_room(world: World) -> None:
    names = [world.model(name) for name in ("one", "two", "three")]
    world.ask("one"), world.ask("two")
    world.apps.idle = {names[0]: 3.0}
    world.apps.loading.add(names[1])
    with pytest.raises(Unavailable, match="max_full_models = 2"):
        world.ask("three")
    assert set(world.apps.now) == set(names[:2])


def test_those_without_replicas_go_when_another_comes(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    world.ask("first")
    world.apps.now[first] = State(0, age_s=100.0)
    world.ask("second")
    assert set(world.apps.now) == {second}


def test_one_that_cannot_be_loaded_says_why_and_is_tried_again(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    world.clock.now += 5
    world.apps.now[full] = State(0, failure="No room on the GPU.")
    with pytest.raises(Unavailable, match=r"whole could not be loaded: No room on the GPU\."):
        world.ask("whole")
    assert world.ask("whole") == full
    assert world.apps.starts == [full, full]


def test_one_that_is_refused_is_ended_and_tried_again_after_a_while(world: World) -> None:
    full, other = world.model("whole"), world.model("other")
    world.apps.refused.add(full)
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="not what was published"):
            world.ask("whole")
    assert world.apps.starts == [full]
    assert full not in world.apps.now
    assert world.ask("other") == other
    world.clock.now += RETRY_SECONDS
    world.apps.refused.clear()
    assert world.ask("whole") == full
    assert world.apps.starts == [full, other, full]


def test_what_another_doors_engine_refused_is_not_started_for_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = world.model("whole")
    world.refuse("whole", "its weights are others")
    for _ in range(2):
        with pytest.raises(AdapterRefused, match="its weights are others"):
            world.ask("whole")
    assert world.apps.starts == []
    monkeypatch.setattr(full_weights, "now_ms", lambda: now_ms() + int(RETRY_SECONDS * 1000))
    assert world.ask("whole") == full


def test_many_who_wait_for_one_that_is_refused_end_it_once(world: World) -> None:
    full = world.model("whole")
    world.apps.refused.add(full)
    assert [type(error) for error in world.errors("whole", 3)] == [AdapterRefused] * 3
    assert world.apps.starts == [full]
    assert world.apps.now == {}


def test_one_that_is_refused_makes_room(world: World) -> None:
    first, bad, third = (world.model(name) for name in ("first", "bad", "third"))
    world.ask("first"), world.ask("bad")
    world.apps.refused.add(bad)  # as another door finds it
    assert world.ask("third") == third
    assert set(world.apps.now) == {first, third}


def test_replicas_are_told(world: World) -> None:
    full = world.model("whole")
    world.ask("whole")
    assert asyncio.run(world.services.full_models()) == {full: 1}


def test_one_that_is_just_being_started_stays(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    world.apps.now[first] = State(0, age_s=1.0)
    world.ask("second")
    assert set(world.apps.now) == {first, second}


def test_many_asks_of_one_name_find_each_its_engine(world: World) -> None:
    full = world.model("whole")
    world.model("tuned", Method.LORA)
    assert world.ask_many(["whole", "whole"]) == [full, full]
    assert world.ask_many(["tuned", "tuned"]) == ["LUTHIER.PUBLIC.tuned: the fox"] * 2
    assert world.ask_many(["tuned", "whole", "tuned"]) == [
        "LUTHIER.PUBLIC.tuned: the fox",
        full,
        "LUTHIER.PUBLIC.tuned: the fox",
    ]


def test_storage_that_hangs_for_one_model_holds_up_no_other(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    world.apps.hanging[first] = threading.Event()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"first cannot be loaded: storage does not answer\. Try again"):
                world.ask("first")
            assert world.ask("second") == second
        assert world.apps.sized == [first, second]
    finally:
        world.apps.hanging[first].set()
    assert world.ask("first") == first
    assert world.apps.starts == [second, first]


def test_storage_that_fails_when_all_have_left_is_no_fault_of_the_loop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = world.model("first"), world.model("second")
    world.apps.hanging[first] = threading.Event()
    with pytest.raises(Unavailable, match="storage does not answer"):
        world.ask("first")
    full = cast(FullWeights, world.services.completions)
    world.apps.lost.add(first)
    world.apps.hanging[first].set()
    while full._memories:
        assert world.ask("second") == second
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_what_has_ended_is_forgotten(world: World) -> None:
    first, second = world.model("first"), world.model("second")
    assert world.ask("first") == first
    world.apps.end(first)
    world.clock.now += AWAKE_SECONDS
    assert world.ask("second") == second
    full = cast(FullWeights, world.services.completions)
    assert {*full._engines, *full._doors, *full._awake} == {second}
