"""Starts and stops the Serve applications."""

import logging
from collections.abc import Iterable

from ray import serve

from luthier.platform.base_models import Catalog
from luthier.platform.settings import Settings
from luthier.serve.deployments import GATEWAY, engine_target, gateway_target
from luthier.serve.full_weights import PREFIX


def start_doors(settings: Settings, catalog: Catalog, host: str) -> None:
    """Starts HTTP on that host, the gateway and an engine for each served base model; engines start side by side.

    With HAProxy in front, replicas listen on that host too. What runs and has not changed is left alone.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this driver only: replicas have their own
    serve.start(http_options={"host": host, "port": settings.port})
    engines = [engine_target(settings, catalog.get(name)) for name in settings.serve_base_models]
    serve.run_many([*engines, gateway_target(settings, catalog)], wait_for_applications_running=False)


def end_engines(base_models: Iterable[str]) -> None:
    """Of base models that are served no more; each finishes its answers, all side by side."""
    names = tuple(base_models)
    for name in names:
        serve.delete(name, _blocking=False)
    for name in names:
        serve.delete(name, _blocking=True)


def stop_doors(base_models: tuple[str, ...]) -> None:
    """Ends the gateway and these engines, and Serve with its port when nothing else runs on it."""
    full = [name for name in serve.status().applications if name.startswith(PREFIX)]
    end_engines((GATEWAY, *base_models, *full))
    if not serve.status().applications:
        serve.shutdown()
