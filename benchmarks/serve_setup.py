"""What the benchmarks of serving serve: a model, a catalog that has it, adapters with random weights."""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import click

from benchmarks.serve_sides import BASE, Setup
from luthier.platform.base_models import base_model_dir, load_catalog
from luthier.platform.settings import load_settings
from tests.tiny_adapter import build_adapter
from tests.tiny_model import build_tiny_model

ROW = """
name = "{name}"
hf = "nobody/{name}"
licence = "Apache-2.0"
description = "The benchmark's model."
price_class = "small"
context_window = {max_model_len}
rows_per_epoch = 1000
max_rank = {rank}

[source]
kind = "path"
path = "{path}"

[engine]
max_loras = {max_loras}
max_cpu_loras = {max_cpu_loras}
max_num_seqs = {max_num_seqs}
dtype = "{dtype}"
"""
ENGINE_OPTIONS = (
    click.option("--rank", default=8, show_default=True, help="Of the adapters."),
    click.option("--max-loras", default=4, show_default=True, help="Adapters in one batch."),
    click.option("--max-cpu-loras", default=64, show_default=True),
    click.option("--max-num-seqs", default=64, show_default=True),
    click.option("--max-model-len", default=512, show_default=True),
    click.option("--dtype", default="auto", show_default=True),
)


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that the row of the catalog is made of."""
    return reduce(lambda made, option: option(made), reversed(ENGINE_OPTIONS), command)


def prepare(model: str, scratch: Path, options: Mapping[str, Any]) -> Setup:
    """The model, its adapters and Luthier's home."""
    base_dir = _base_dir(model, scratch)
    home = scratch / "home"
    (home / "base_models").mkdir(parents=True)
    names = (BASE, *(f"{BASE}{number}" for number in range(2, options["base_models"] + 1)))
    for name in names:
        row = ROW.format(name=name, path=base_dir, **options)
        (home / "base_models" / f"{name}.toml").write_text(row)
    adapters = {
        f"A{number}": build_adapter(base_dir, scratch / f"A{number}", seed=number, r=options["rank"])
        for number in range(max(options["adapters"]))
    }
    return Setup(home, names, options.get("doors", ()), adapters)


def _base_dir(model: str, scratch: Path) -> Path:
    if model == "tiny":
        return build_tiny_model(scratch / "tiny")
    if Path(model).is_dir():
        return Path(model).resolve()
    settings = load_settings()
    return base_model_dir(settings, load_catalog(settings).get(model))


def told(options: Mapping[str, object]) -> str:
    """Options and their values in words, whatever the model's folder is called."""
    return ", ".join(f"{name} {value}" for name, value in options.items() if name != "model").replace("_", " ")
