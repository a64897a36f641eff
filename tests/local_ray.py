"""A Ray of this process, and Ray Serve on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray import serve


@contextmanager
def local_ray(num_cpus: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200_000_000,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
        )
        yield
        ray.shutdown()


@contextmanager
def local_serve() -> Iterator[None]:
    with local_ray(num_cpus=1):
        serve.start(proxy_location="Disabled")
        yield
        serve.shutdown()
