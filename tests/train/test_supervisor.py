"""What the launcher says of a real cluster."""

import pytest

from luthier.platform.queue import Capacity
from luthier.platform.settings import Settings
from luthier.train.supervisor import RayLauncher


@pytest.mark.ray
def test_the_capacity_of_two_cores(ray_cluster: None, settings: Settings) -> None:
    assert RayLauncher(settings).capacity() == Capacity(jobs=1, workers=2, unit="CPU")
    more = settings.model_copy(update={"max_running_jobs": 3})
    assert RayLauncher(more).capacity() == Capacity(jobs=3, workers=2, unit="CPU")


@pytest.mark.parametrize(
    ("resources", "capacity"),
    [
        ({"CPU": 8.0}, Capacity(jobs=4, workers=8, unit="CPU")),
        ({"CPU": 1.0}, Capacity(jobs=1, workers=1, unit="CPU")),
        ({"CPU": 64.0, "GPU": 4.0}, Capacity(jobs=3, workers=3, unit="GPU")),
        ({"CPU": 64.0, "GPU": 1.0}, Capacity(jobs=1, workers=0, unit="GPU")),
    ],
)
def test_capacity_counts_gpus_beside_the_engine_where_there_are_any(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], capacity: Capacity
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    assert RayLauncher(settings).capacity() == capacity
