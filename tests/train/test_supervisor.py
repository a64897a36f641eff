"""What the launcher says of a cluster, and which ends of a run are billed."""

from collections import Counter
from dataclasses import replace

import pytest

from luthier.errors import BadDataset, LossDiverged, NotAllowed, TrainingFailed
from luthier.platform.queue import Capacity
from luthier.platform.settings import GIB, Settings
from luthier.train import supervisor
from luthier.train.supervisor import RayLauncher, is_billable
from tests.factories import BASE_MODEL


class Nodes:
    """What Ray says of a cluster."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
        self.resources = list(resources)
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": each} for each in self.resources])
        monkeypatch.setattr("ray.cluster_resources", lambda: dict(sum(map(Counter, self.resources), Counter[str]())))


@pytest.mark.parametrize(
    ("resources", "capacity"),
    [
        ({"CPU": 8.0}, Capacity(jobs=4, workers=8, unit="CPU")),
        ({"CPU": 1.0}, Capacity(jobs=1, workers=1, unit="CPU")),
        ({}, Capacity(jobs=1, workers=0, unit="CPU")),
        ({"CPU": 64.0, "GPU": 4.0}, Capacity(jobs=3, workers=3, unit="GPU")),
        ({"CPU": 64.0, "GPU": 1.0}, Capacity(jobs=1, workers=0, unit="GPU")),
    ],
)
def test_capacity_counts_gpus_beside_the_engine_where_there_are_any(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], capacity: Capacity
) -> None:
    Nodes(monkeypatch, resources)
    assert RayLauncher(settings).capacity() == capacity


def test_memory_is_that_of_the_largest_node(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"CPU": 1.0, "memory": 4.0 * GIB, "object_store_memory": 1.0 * GIB}
    large = {"CPU": 1.0, "memory": 15.0 * GIB, "object_store_memory": 6.0 * GIB}
    Nodes(monkeypatch, small, large)
    monkeypatch.setattr(supervisor, "get_system_memory", lambda: 8 * GIB)
    assert RayLauncher(settings).capacity().memory == 21 * GIB


def test_memory_that_others_took_when_ray_started_counts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may give it back, and a restart of Ray must not stop the jobs that ran before."""
    Nodes(monkeypatch, {"CPU": 2.0, "memory": 2.0 * GIB, "object_store_memory": 1.0 * GIB})
    monkeypatch.setattr(supervisor, "get_system_memory", lambda: 24 * GIB)
    assert RayLauncher(settings).capacity().memory == 24 * GIB


@pytest.mark.parametrize(
    ("kinds", "gib"),
    [(["accelerator_type:A100", "accelerator_type:H200"], 141), (["accelerator_type:A100", "x"], None)],
)
def test_memory_is_that_of_the_largest_gpu(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, kinds: list[str], gib: int | None
) -> None:
    nodes = [{"CPU": 8.0, "memory": 999.0 * GIB, "GPU": 4.0, kind: 1.0} for kind in kinds]
    Nodes(monkeypatch, {"CPU": 2.0, "memory": 9.0 * GIB}, *nodes)
    assert RayLauncher(settings).capacity().memory == (gib and gib * GIB)


@pytest.mark.parametrize(
    ("engine", "gpus", "capacity"),
    [
        ("min_replicas = 2", 4, Capacity(jobs=2, workers=2, unit="GPU")),
        ("min_replicas = 2\ntensor_parallel_size = 2", 8, Capacity(jobs=4, workers=4, unit="GPU")),
        ("min_replicas = 1\nmax_replicas = 4", 4, Capacity(jobs=3, workers=3, unit="GPU")),
        ("min_replicas = 5", 4, Capacity(jobs=1, workers=0, unit="GPU")),
        ("min_replicas = 2\ngpu_share = 0.2", 2, Capacity(jobs=2, workers=2, unit="GPU", gpu_share=0.6)),
        ("min_replicas = 2\ngpu_share = 0.25", 2, Capacity(jobs=1, workers=1, unit="GPU")),
    ],
)
def test_each_engine_that_always_runs_has_gpus_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, engine: str, gpus: int, capacity: Capacity
) -> None:
    with (settings.home / "base_models" / "tiny.toml").open("a") as row:
        row.write(engine)
    Nodes(monkeypatch, {"CPU": 16.0, "GPU": float(gpus)})
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
    Nodes(monkeypatch, {"CPU": 16.0, "GPU": float(gpus), "accelerator_type:A100": 1.0})
    served = settings.model_copy(update={"serve_base_models": tuple(names)})
    share = capacity.gpu_share if capacity.workers == 1 else 1
    assert RayLauncher(served).capacity() == replace(capacity, memory=int(80 * GIB * share))


def test_a_cluster_that_lost_its_gpus_does_not_train_on_cpus(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(monkeypatch, {"CPU": 16.0, "GPU": 4.0})
    launcher = RayLauncher(settings.model_copy(update={"serve_base_models": ()}))
    assert launcher.capacity().workers == 4
    del nodes.resources[0]["GPU"]
    assert launcher.capacity() == Capacity(jobs=1, workers=0, unit="GPU")


def test_what_is_billed_of_a_failure() -> None:
    billed = [LossDiverged("nan"), BadDataset("no rows"), NotAllowed("another role's model")]
    free = [TrainingFailed("a worker died"), OSError("no space")]
    assert [is_billable(error) for error in billed + free] == [True, True, True, False, False]
