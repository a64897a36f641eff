"""Starts and stops the Serve applications."""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

import ray
from ray import serve

from luthier.errors import Unavailable
from luthier.platform.base_models import Catalog
from luthier.platform.settings import Settings
from luthier.serve.deployments import GATEWAY, engine_target, gateway_target
from luthier.serve.full_weights import PREFIX

SERVE_REPLICA = "SERVE_REPLICA::"
"""Begins the names of Serve's replicas; the application's follows."""
POLL_SECONDS = 0.2
CUT_SECONDS = 15.0
"""For Serve to see that killed replicas are gone."""
SHUT_SECONDS = 10.0
"""For its controller to end. It is told at once, and ends by itself; Serve would wait for three times as long."""


def start_doors(settings: Settings, catalog: Catalog, host: str) -> None:
    """Starts HTTP on that host, the gateway and an engine for each served base model; engines start side by side.

    With HAProxy in front, replicas listen on that host too. What runs and has not changed is left alone.
    """
    _be_quiet()
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


def end_doors(base_models: Iterable[str], seconds: float) -> list[str]:
    """Ends the gateway, which still asks engines, then these side by side, each when it has answered.

    Gives those that have not in that time; they are on their way, too.
    """
    _be_quiet()
    until = time.monotonic() + seconds
    left = _end([GATEWAY], until)
    full = [name for name in serve.status().applications if name.startswith(PREFIX)]
    return sorted([*left, *_end([*base_models, *full], until)])


def _end(names: Iterable[str], until: float) -> list[str]:
    ours = set(names).intersection(serve.status().applications)
    for name in ours:
        serve.delete(name, _blocking=False)
    while left := list(ours.intersection(serve.status().applications)):
        if time.monotonic() > until:
            return left
        time.sleep(POLL_SECONDS)
    return []


def cut_off_doors(base_models: Iterable[str]) -> None:
    """Ends the same at once, and Serve with its port when nothing else runs on it. Unavailable when one stays."""
    left = tuple(f"{SERVE_REPLICA}{name}#" for name in end_doors(base_models, 0.0))
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if left and actor["name"].startswith(left):
            with suppress(ValueError):  # it has ended meanwhile
                ray.kill(ray.get_actor(**actor))
    if staying := end_doors(base_models, CUT_SECONDS):
        raise Unavailable(f"{', '.join(staying)} did not end in {CUT_SECONDS:.0f} s")
    if not serve.status().applications:
        shutting = threading.Thread(target=serve.shutdown, daemon=True)
        shutting.start()
        shutting.join(SHUT_SECONDS)


def _be_quiet() -> None:
    """This driver only: replicas have loggers of their own."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
