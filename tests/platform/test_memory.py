"""What a run takes at the least: no catalog row is refused where it trains, and what cannot train is."""

from dataclasses import replace
from typing import Literal

import pytest

from luthier.platform.base_models import BaseModel, Catalog, load_catalog
from luthier.platform.memory import GPU_GIB, gpu_bytes, least_bytes, ways_out
from luthier.platform.options import Method
from luthier.platform.queue import Capacity
from luthier.platform.settings import GIB, Settings

GPUS = Capacity(jobs=8, workers=8, unit="GPU", memory=80 * GIB)
MEMORY = 24 * GIB
CPUS = Capacity(jobs=1, workers=2, unit="CPU", memory=MEMORY)


@pytest.fixture
def catalog(settings: Settings) -> Catalog:
    return load_catalog(settings)


def fits(base: BaseModel, method: Method, workers: int, capacity: Capacity) -> bool:
    return capacity.can_hold(workers, least_bytes(base, method, workers, capacity.unit))


@pytest.mark.parametrize(
    ("name", "method", "least_workers"),
    [
        ("llama3.1-8b", Method.LORA, 1),
        ("llama3.1-8b", Method.QLORA, 1),
        ("llama3.1-8b", Method.FULL, 2),
        ("llama3.1-70b", Method.LORA, 2),
        ("llama3.1-70b", Method.QLORA, 1),
        ("llama3.1-70b", Method.FULL, 13),
        ("llama3.1-405b", Method.LORA, 9),
        ("qwen3-4b", Method.FULL, 1),
    ],
)
def test_gpus_of_80_gib_that_it_takes(catalog: Catalog, name: str, method: Method, least_workers: int) -> None:
    base, many = catalog.get(name), replace(GPUS, workers=64)
    assert fits(base, method, least_workers, many)
    assert least_workers == 1 or not fits(base, method, least_workers - 1, many)


def test_four_bits_are_not_shared(catalog: Catalog) -> None:
    base = catalog.get("llama3.1-405b")
    assert not fits(base, Method.QLORA, 8, GPUS)


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_small_model_trains_on_two_cores(catalog: Catalog, method: Method) -> None:
    assert fits(catalog.get("smollm2-135m"), method, 2, CPUS)


def test_on_cpus_each_worker_has_the_whole(catalog: Catalog) -> None:
    base = catalog.get("llama3.1-70b")
    assert least_bytes(base, Method.LORA, 8, "CPU") == least_bytes(base, Method.LORA, 1, "CPU") > MEMORY * 4


def test_a_row_without_parameters_is_not_judged(catalog: Catalog) -> None:
    assert catalog.get("tiny").parameters is None
    assert least_bytes(catalog.get("tiny"), Method.FULL, 1, "CPU") == 0


def test_every_row_trains_on_the_gpus_that_it_takes(catalog: Catalog) -> None:
    for base in catalog:
        if Method.LORA in base.methods:
            assert fits(base, Method.LORA, base.train_gpus, replace(GPUS, workers=base.train_gpus)), base.name


@pytest.mark.parametrize(
    ("types", "gib"),
    [
        (["H200"], 141),
        (["A100", "H100"], 94),
        (["L4", "GeForce-RTX-5090"], None),
        (["H100", None], None),
        ([], None),
    ],
)
def test_what_a_gpu_has(types: list[str | None], gib: int | None) -> None:
    assert gpu_bytes(types) == (gib and gib * GIB)


def test_the_names_are_those_of_ray() -> None:
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    device_names = {
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H100 NVL": "H100",
        "NVIDIA A100-SXM4-40GB": "A100",
        "NVIDIA H200": "H200",
        "Tesla V100-SXM2-16GB": "V100",
        "NVIDIA A10G": "A10G",
        "NVIDIA L40S": "L40S",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000",
        "NVIDIA GH200 480GB": "GH200",
    }
    for device, name in device_names.items():
        assert NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(device) == name
        assert name in GPU_GIB


@pytest.mark.parametrize(
    ("name", "method", "workers", "unit", "words"),
    [
        (
            "llama3.1-8b",
            Method.FULL,
            1,
            "GPU",
            "Set num_workers to 2 or more, use method lora or qlora, or choose a smaller base model.",
        ),
        ("llama3.1-405b", Method.LORA, 4, "GPU", "Choose a smaller base model."),
        ("llama3.1-70b", Method.FULL, 4, "GPU", "Use method lora or qlora, or choose a smaller base model."),
        ("llama3.1-8b", Method.FULL, 1, "CPU", "Use method lora, or choose a smaller base model."),
        ("llama3.1-70b", Method.LORA, 1, "CPU", "Choose a smaller base model."),
    ],
)
def test_ways_out(
    catalog: Catalog, name: str, method: Method, workers: int, unit: Literal["GPU", "CPU"], words: str
) -> None:
    assert ways_out(catalog.get(name), method, workers, GPUS if unit == "GPU" else CPUS) == words
