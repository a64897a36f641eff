"""Models with weights of their own at one door: their applications in memory, the registry real."""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from luthier.errors import AdapterRefused, LuthierError, Unavailable
from luthier.platform.models import ModelVersion, Proof, ProofState
from luthier.platform.options import Method
from luthier.platform.registry.registry import Registry
from luthier.platform.settings import Settings
from luthier.platform.wire import Choice, Chunk, CompleteRequest, Usage
from luthier.serve.asks import Ask
from luthier.serve.full_weights import State, application_name, with_full_weights
from luthier.serve.services import make_services
from tests.factories import ADMIN, add_admin, make_finished, make_job
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

    def errors(self, model: str, num: int) -> list[str | BaseException]:
        """Of so many requests at once."""

        async def ask() -> list[str | BaseException]:
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
