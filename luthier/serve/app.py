"""Composes the Serve applications: one for each base model, and the gateway in front of them.

Replica numbers, resources and names that the dashboard shows stand only here.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from luthier.errors import LuthierError, Unavailable
from luthier.platform.base_models import BaseModel, Catalog
from luthier.platform.models import ModelVersion
from luthier.platform.registry.actor import RegistryClient
from luthier.platform.settings import Settings
from luthier.platform.wire import Chunk
from luthier.serve.access_log import open_access_log
from luthier.serve.api import build_api
from luthier.serve.replica import Replica, keep_on_loopback
from luthier.serve.services import Ask, make_services
from luthier.serve.slots import AdapterStats

GATEWAY = "gateway"
MAX_ONGOING = 10_000
"""Above the 4,096 connections that HAProxy takes: Serve queues nothing, so whatever is too much is refused by us."""
LOGGING = {"enable_access_log": False}
"""Of Ray Serve: our own says more."""
STATS_SECONDS = 3.0


def start_doors(settings: Settings, catalog: Catalog, host: str) -> None:
    """Starts HTTP on that host, the gateway and an engine for each served base model; engines start side by side.

    With HAProxy in front, replicas listen on that host too.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this driver only: replicas have their own
    serve.start(http_options={"host": host, "port": settings.port})
    engines = [
        serve.RunTarget(_engine_app(settings, catalog.get(name)), name=name, route_prefix=f"/m/{name}")
        for name in settings.serve_base_models
    ]
    gateway = serve.RunTarget(_gateway_app(settings), name=GATEWAY, route_prefix="/")
    serve.run_many([*engines, gateway], wait_for_applications_running=False)


def stop_doors(base_models: tuple[str, ...]) -> None:
    """Ends the gateway and these engines, and Serve with its port when nothing else runs on it."""
    for name in (GATEWAY, *base_models):
        serve.delete(name, _blocking=True)
    if not serve.status().applications:
        serve.shutdown()


class HandleCompletions:
    """Completions through Serve's handles to the engines' replicas."""

    def __init__(self, base_models: tuple[str, ...]) -> None:
        self._base_models = base_models
        self._handles: dict[str, DeploymentHandle] = {}

    async def whole(self, ask: Ask) -> Chunk:
        answer = self._handle(ask.base_model).options(method_name="whole").remote(ask)
        with _own_errors(ask.base_model, answer):
            chunk: Chunk = await answer
            return chunk

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        base_model = asks[0].base_model
        call = self._handle(base_model).options(method_name="many").remote(asks)
        with _own_errors(base_model, call):
            answers: list[Chunk | LuthierError] = await call
            return answers

    async def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        chunks = self._handle(ask.base_model).options(stream=True, method_name="stream").remote(ask)
        with _own_errors(ask.base_model, chunks):
            async for chunk in chunks:
                yield chunk

    async def warm(self, version: ModelVersion) -> None:
        with _own_errors(version.base_model):
            await self._handle(version.base_model).broadcast("warm", version).results_async()

    async def ready(self) -> dict[str, bool]:
        statuses = await asyncio.to_thread(lambda: serve.status().applications)
        return {name: name in statuses and statuses[name].status == "RUNNING" for name in self._base_models}

    async def adapters(self) -> list[AdapterStats]:
        found = await asyncio.gather(*(self._adapters(name) for name in self._base_models))
        return [stats for some in found for stats in some]

    async def _adapters(self, base_model: str) -> list[AdapterStats]:
        """Of its replicas; one that does not answer in time is left out."""
        try:
            asked = self._handle(base_model).broadcast("adapters")
            told = await asked.results_async(timeout_s=STATS_SECONDS, return_exceptions=True)
        except (TimeoutError, RayActorError, RayServeException, DeploymentUnavailableError):
            return []
        return [stats for some in told if isinstance(some, list) for stats in some]

    def _handle(self, base_model: str) -> DeploymentHandle:
        if base_model not in self._handles:
            self._handles[base_model] = serve.get_app_handle(base_model)
        return self._handles[base_model]


@contextmanager
def _own_errors(
    base_model: str, call: DeploymentResponse | DeploymentResponseGenerator | None = None
) -> Iterator[None]:
    """A replica's errors as it raised them, Ray's as our own. Who leaves before the end ends the call."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, LuthierError):
            raise error.cause from None
        raise
    except (RayActorError, RayServeException, BackPressureError, DeploymentUnavailableError) as error:
        raise Unavailable(f"The engine of {base_model} does not answer just now. Try again in a moment.") from error
    except BaseException:
        if call:
            call.cancel()
        raise


def _gateway_app(settings: Settings) -> serve.Application:
    def build() -> FastAPI:
        keep_on_loopback()
        completions = HandleCompletions(settings.serve_base_models)
        return build_api(make_services(settings, RegistryClient(), completions, access_log=open_access_log(settings)))

    deployment = serve.deployment(serve.ingress(build)())
    options: dict[str, Any] = {
        "name": GATEWAY,
        "max_ongoing_requests": MAX_ONGOING,
        "logging_config": LOGGING,
        "ray_actor_options": {"num_cpus": 0},
    }
    return deployment.options(**options).bind()


def _engine_app(settings: Settings, base: BaseModel) -> serve.Application:
    num_gpus = base.engine.num_gpus * base.engine.gpu_share if ray.cluster_resources().get("GPU") else 0
    deployment = serve.deployment(serve.ingress()(Replica)).options(
        name=base.name,
        max_ongoing_requests=MAX_ONGOING,
        logging_config=LOGGING,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
        # On CPU the engine shares the machine with training: it reserves nothing, or two cores could never do both.
        ray_actor_options={"num_cpus": 0, "num_gpus": num_gpus},
    )
    return deployment.bind(settings, base.name)
