"""What the launcher says of a real cluster."""

import pytest

from luthier.errors import BadDataset, LossDiverged, TrainingFailed
from luthier.platform.queue import Capacity
from luthier.platform.settings import Settings
from luthier.train.supervisor import RayLauncher, is_billable
from tests.factories import BASE_MODEL


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


@pytest.mark.parametrize(
    ("shares", "gpus", "capacity"),
    [
        ([0.25], 1, Capacity(jobs=1, workers=1, unit="GPU", gpu_share=0.75)),
        ([0.25, 0.125], 8, Capacity(jobs=8, workers=8, unit="GPU", gpu_share=0.625)),
        ([0.25, 1], 2, Capacity(jobs=1, workers=1, unit="GPU", gpu_share=0.75)),
        ([0.5, 0.25], 2, Capacity(jobs=1, workers=1, unit="GPU")),
    ],
    ids=str,
)
def test_small_engines_leave_the_rest_of_their_gpu_to_training(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, shares: list[float], gpus: int, capacity: Capacity
) -> None:
    names = []
    for number, share in enumerate(shares):
        row = (
            BASE_MODEL.format(path="none")
            .replace('name = "tiny"', f'name = "engine{number}"')
            .replace("tests/", f"{number}/")
        )
        row = row.replace("[engine]\n", f"[engine]\ngpu_share = {share}\n")
        assert "gpu_share" in row
        (settings.home / "base_models" / f"engine{number}.toml").write_text(row)
        names.append(f"engine{number}")
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": float(gpus)})
    served = settings.model_copy(update={"serve_base_models": tuple(names)})
    assert RayLauncher(served).capacity() == capacity


def test_a_cluster_that_lost_its_gpus_does_not_train_on_cpus(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = {"CPU": 16.0, "GPU": 4.0}
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    launcher = RayLauncher(settings.model_copy(update={"serve_base_models": ()}))
    assert launcher.capacity().workers == 4
    del resources["GPU"]
    assert launcher.capacity() == Capacity(jobs=1, workers=0, unit="GPU")


def test_what_is_billed_of_a_failure() -> None:
    errors = [LossDiverged("nan"), BadDataset("no rows"), TrainingFailed("a worker died"), OSError("no space")]
    assert [is_billable(error) for error in errors] == [True, True, False, False]
