"""Completions through Serve's handles to the replicas of an application."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from luthier.errors import LuthierError, NotServed, Unavailable
from luthier.platform.models import ModelVersion
from luthier.platform.wire import Chunk
from luthier.serve.adapters.adapter_stats import AdapterStats
from luthier.serve.asks import Ask, Completions, Told
from luthier.serve.remember import Remembered
from luthier.serve.threads import CONTROLLER

STATS_SECONDS = 3.0
SOFT_SECONDS, FRESH_SECONDS = 0.5, 1.0

Answer = TypeVar("Answer")


class Application:
    """The replicas of one Serve application; errors speak of `engine`."""

    def __init__(self, name: str, engine: str) -> None:
        self._name, self._engine = name, engine
        self._known: DeploymentHandle | None = None

    async def whole(self, ask: Ask) -> Chunk:
        answer: Chunk | LuthierError = await self._answer("whole_or_error", ask, told=ask.told)
        ask.told.is_so = True
        return _given(answer)

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        answers: list[Chunk | LuthierError] = await self._answer("many", asks)
        return answers

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        refused: LuthierError | None = None
        with self._own_errors(ask.told) as calls:
            chunks = (await self._handle()).options(stream=True, method_name="stream_or_error").remote(ask)
            calls.append(chunks)
            async for chunk in chunks:
                ask.told.is_so = True
                if isinstance(chunk, LuthierError):
                    refused = chunk
                else:
                    yield chunk
        if refused:
            raise refused

    async def idle_seconds(self) -> float:
        """Since a replica answered last; 0 while it answers. Waits for a replica, however long that takes.

        AdapterRefused when it does not serve its version.
        """
        answer: float | LuthierError = await self._answer("idle_seconds")
        return _given(answer)

    async def warm(self, version: ModelVersion) -> None:
        with self._own_errors():
            answers = await (await self._handle()).broadcast("warm_or_error", version).results_async()
        for answer in answers:
            _given(answer)

    async def adapters(self) -> list[AdapterStats]:
        """Of its replicas; one that does not answer in time is left out."""
        try:
            asked = (await self._handle()).broadcast("adapters")
            told = await asked.results_async(timeout_s=STATS_SECONDS, return_exceptions=True)
        except (TimeoutError, RayActorError, RayServeException, DeploymentUnavailableError):
            return []
        return [stats for some in told if isinstance(some, list) for stats in some]

    async def _answer(self, method: str, *given: Any, told: Told | None = None) -> Any:
        with self._own_errors(told) as calls:
            calls.append((await self._handle()).options(method_name=method).remote(*given))
            return await calls[0]

    async def _handle(self) -> DeploymentHandle:
        self._known = self._known or await CONTROLLER.run(serve.get_app_handle, self._name)  # it waits for Serve
        return self._known

    @contextmanager
    def _own_errors(self, told: Told | None = None) -> Iterator[list[DeploymentResponse | DeploymentResponseGenerator]]:
        """Ray's errors as our own. Who leaves before the end ends the calls."""
        calls: list[DeploymentResponse | DeploymentResponseGenerator] = []
        told = told or Told()
        try:
            yield calls
        except RayTaskError:  # a fault of ours, there
            told.is_so = True
            raise
        except (RayActorError, RayServeException, BackPressureError, DeploymentUnavailableError) as error:
            raise Unavailable(
                f"The engine of {self._engine} does not answer just now. Try again in a moment."
            ) from error
        except BaseException:
            for call in calls:
                told.is_so |= call._replica_result is not None  # a replica has it, and writes down how it ends
                call.cancel()
            raise


def _given(answer: Answer | LuthierError) -> Answer:
    """A replica's errors come as values (`or_error`)."""
    if isinstance(answer, LuthierError):
        raise answer
    return answer


class HandleCompletions:
    """Completions by the applications of the base models, each under its base model's name."""

    def __init__(self, base_models: tuple[str, ...]) -> None:
        self._engines = {name: Application(name, name) for name in base_models}

    async def whole(self, ask: Ask) -> Chunk:
        return await self._of(ask.base_model).whole(ask)

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        return await self._of(asks[0].base_model).many(asks)

    def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        return self._of(ask.base_model).stream(ask)

    async def warm(self, version: ModelVersion) -> None:
        await self._of(version.base_model).warm(version)

    async def ready(self) -> dict[str, bool]:
        statuses = await _applications()
        return {name: name in statuses and _has_replica(statuses[name]) for name in self._engines}

    async def adapters(self) -> list[AdapterStats]:
        found = await asyncio.gather(*(engine.adapters() for engine in self._engines.values()))
        return [stats for some in found for stats in some]

    def _of(self, base_model: str) -> Application | Completions:
        if base_model not in self._engines:
            raise NotServed(f"Base model {base_model} is not served here. Add it to serve_base_models.")
        return self._engines[base_model]


class NearCompletions(HandleCompletions):
    """Completions in a base model's replica: its own, and those of other base models by their applications.

    HAProxy sends some here that belong elsewhere: what it learned of a name may be a moment old. Which others there
    are changes while the replica runs (`Served`).
    """

    def __init__(self, base_model: str, own: Completions) -> None:
        super().__init__(())
        self._base_model, self._own = base_model, own

    async def ready(self) -> dict[str, bool]:
        return await self._own.ready()

    async def adapters(self) -> list[AdapterStats]:
        return await self._own.adapters()

    def _of(self, base_model: str) -> Application | Completions:
        if base_model == self._base_model:
            return self._own
        return self._engines.setdefault(base_model, Application(base_model, base_model))


class Served:
    """Which base models have an application, by Serve itself.

    `luthier up` adds some and ends others beside replicas that go on. Serve's own way to tell those, `user_config`,
    takes them out of HAProxy until they have heard it.
    """

    def __init__(self) -> None:
        self._known = Remembered(_has_application, SOFT_SECONDS, FRESH_SECONDS)

    async def has(self, base_model: str) -> bool:
        """As it was a second ago at the most."""
        return await self._known.get(base_model)


async def _has_application(name: str) -> bool:
    try:
        found = (await _applications()).get(name)
    except (RayActorError, RayServeException) as error:
        raise Unavailable("Ray Serve does not answer just now. Try again in a moment.") from error
    return found is not None and found.status != ApplicationStatus.DELETING


async def _applications() -> dict[str, ApplicationStatusOverview]:
    return await CONTROLLER.run(lambda: serve.status().applications)


def _has_replica(application: ApplicationStatusOverview) -> bool:
    """One that answers, whatever else is being started or replaced."""
    return any(deployment.replica_states.get("RUNNING") for deployment in application.deployments.values())
