"""Settings: configs/platform.toml, then LUTHIER_* variables. Read once a process, frozen."""

import json
import os
import re
from contextlib import suppress
from functools import cached_property, lru_cache
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from luthier.errors import InvalidInput
from luthier.platform.frozen import Frozen, TomlFile, first_fault, reason_of
from luthier.platform.names import fold
from luthier.platform.toml_lines import Place

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MIB, GIB = 1 << 20, 1 << 30
"""What sizes are given in."""


def configs_dir() -> Path:
    """configs/ of a checkout, or the copy inside an installed wheel; LUTHIER_CONFIGS names another."""
    if named := os.environ.get("LUTHIER_CONFIGS"):
        return Path(named)
    return _own_configs()


@lru_cache(maxsize=1)
def _own_configs() -> Path:
    package = Path(__file__).resolve().parent.parent
    beside = package.parent / "configs"
    return beside if beside.is_dir() else package / "_configs"


class Region(Frozen):
    """Another region, as this one reaches it."""

    storage: Path
    """The root of its artifact storage."""
    database_url: str = Field(min_length=1)
    """SQLAlchemy URL of its store."""
    storage_there: Path | None = None
    """The same root as its own machines see it, where that is another path."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LUTHIER_", extra="forbid", frozen=True)

    home: Path = Field(default_factory=lambda: Path.home() / ".luthier")
    """Everything that must survive: database, tables, runs, adapters."""
    cache: Path = Field(default_factory=lambda: Path.home() / ".cache" / "luthier")
    """What can be fetched or made again: base model weights. Shared by all homes."""
    adapter_disk: str = ""
    """A folder on each node's own disk, for copies of the adapters that are asked; empty: one in the home."""
    adapter_disk_gib: int = Field(16, ge=0)
    """Of such copies on a node; 0 keeps none, and each load reads the storage."""
    database_url: str = ""
    """SQLAlchemy URL, such as postgresql+psycopg://... (luthier[postgres]); empty means SQLite in the home."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    ray_port: int = Field(6399, ge=1, le=65535)
    dashboard_port: int = Field(8265, ge=1, le=65535)
    serve_base_models: tuple[str, ...] = ("smollm2-135m",)
    max_full_models: int = Field(2, ge=1)
    """Tuned models with weights of their own that are loaded at once."""
    full_model_idle_s: float = Field(600.0, ge=0.0)
    full_model_wait_s: float = Field(60.0, gt=0.0)
    region: str = Field("local", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """What this platform is called where there are others."""
    regions: dict[str, Region] = {}
    """The others, by their own names; models are replicated to them."""
    account: str = "main"
    database: str = "LUTHIER"
    schema_name: str = "PUBLIC"
    max_running_jobs: int = Field(0, ge=0)
    max_running_jobs_per_account: int = Field(0, ge=0)
    max_attempts: int = Field(4, ge=1)
    collect_after_minutes: int = Field(60, ge=1)
    job_retention_days: int = Field(365, ge=0)
    """SHOW lists a job for so long after its end; 0 keeps all."""
    max_upload_mib: int = Field(4096, ge=1)
    max_body_mib: int = Field(16, ge=1)
    max_bodies_mib: int = Field(256, ge=1)
    """All that are with one door at once, but for small ones and for files."""
    max_answer_mib: int = Field(1024, ge=1)
    """Of one statement, whole in memory or on the disk of the storage before it is sent."""
    max_answers_mib: int = Field(4096, ge=2)
    """All that a gateway makes or sends at once."""
    max_spool_mib: int = Field(64, ge=1)
    """Usage of a replica that waits for the ledger; beyond it no completion is taken."""
    reader_timeout_s: int = Field(60, ge=1)
    """Who takes nothing of an answer, or sends nothing of a request, for so long is cut off."""
    access_log: bool = True
    mlflow_tracking_uri: str = ""
    """Runs are sent there as they go; empty means nowhere. Credentials by MLflow's own variables."""
    mlflow_experiment: str = Field("luthier", min_length=1)
    mlflow_registry: str = Field("", pattern=r"^([\w-]+(\.[\w-]+)?)?$")
    """Tuned models are registered there by account and name: luthier, or a catalog.schema; empty means none is."""

    webhook_networks: tuple[str, ...] = ()
    """Networks (such as 10.0.0.0/8) that webhooks may reach beside public addresses, and there by http:// too."""
    oidc_issuer: str = ""
    """An identity provider whose tokens are taken beside API keys; empty means none."""
    oidc_audience: str = ""
    oidc_algorithms: tuple[str, ...] = ("RS256", "ES256")
    oidc_jwks_url: str = ""
    """Where its public keys are; empty: as its discovery document says."""
    oidc_user_claim: str = Field("sub", min_length=1)
    oidc_account: str = ""
    """Of its users; empty: `account`."""
    oidc_create_users: bool = False
    oidc_admin: bool = False
    """Whether a token may be of the user `admin`, whom every account has and every provider could name."""
    oidc_max_key_days: int = Field(90, ge=0, le=36_500)
    """How long a key lives at the most that was made by a token; 0: tokens make none."""
    oidc_role_claim: str = ""
    """Names roles; the first that the user has is his, else his default one."""
    oidc_roles: dict[str, str] = {}
    """What the provider calls a role, and what it is called here, as SQL writes it; other names are taken as they are.
    """

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)
        return networks

    @field_validator("oidc_algorithms")
    @classmethod
    def _oidc_is_asymmetric(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or not set(names) <= set(ASYMMETRIC):
            raise ValueError(f"tokens are signed by private keys: of {', '.join(ASYMMETRIC)}, one at least")
        return names

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _oidc_is_private(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and parts.scheme != "https" and (parts.scheme, parts.hostname in LOOPBACK) != ("http", True):
            raise ValueError("an https:// address; http:// is for this machine alone")
        return url

    @field_validator("oidc_roles")
    @classmethod
    def _are_roles(cls, roles: dict[str, str]) -> dict[str, str]:
        try:
            list(map(fold, roles.values()))
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return roles

    @model_validator(mode="after")
    def _answer_fits(self) -> Self:
        if 2 * self.max_answer_mib > self.max_answers_mib:
            raise ValueError("max_answers_mib is twice max_answer_mib at least: an account may have half of them")
        return self

    @model_validator(mode="after")
    def _oidc_is_whole(self) -> Self:
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("oidc_issuer needs oidc_audience: a token for another service is none for this one")
        return self

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _mlflow_is_there(cls, uri: str) -> str:
        if uri and not find_spec("mlflow"):
            raise ValueError("mlflow is not installed: pip install 'luthier[mlflow]'")
        return uri

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, configs_dir() / "platform.toml")

    @cached_property
    def store_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'luthier.db'}"

    @cached_property
    def storage(self) -> Path:
        return self.home / "storage"

    @cached_property
    def adapter_copies(self) -> Path:
        return Path(self.adapter_disk) if self.adapter_disk else self.home / "adapter_copies"


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process; InvalidInput says which of them is at fault, and where it stands."""
    file = configs_dir() / "platform.toml"
    toml = TomlFile(file) if file.is_file() else None
    try:
        return Settings()
    except ValidationError as error:
        raise _fault(first_fault(error), toml) from error
    except SettingsError as error:  # a variable is no JSON where its setting is a list or a table
        named = re.search('"([a-z_]+)"', str(error))
        raise InvalidInput(f"LUTHIER_{named[1].upper() if named else '*'}: not JSON: {error.__cause__}") from error


def _fault(fault: ErrorDetails, toml: TomlFile | None) -> InvalidInput:
    """A table is put together of the file's and the variable's: at fault is which of them says more of the path."""
    path, reason = fault["loc"], reason_of(Settings, fault)
    name, *inner = map(str, path or ("",))
    variable, said = _variable(name)
    if toml and _depth(toml.data, path) > _depth(said, path):
        return toml.fault(path, reason)
    places = (variable if name else "Settings", ".".join(inner), reason)
    return InvalidInput(": ".join(filter(None, places)))


def _variable(name: str) -> tuple[str, dict[str, Any]]:
    """What a setting's is called, and what it says. Variables are taken in any case."""
    known = f"LUTHIER_{name.upper()}"
    for each, text in os.environ.items():
        if each.upper() == known:
            with suppress(ValueError):
                return each, {name: json.loads(text)}
            return each, {name: text}
    return known, {}


def _depth(data: Any, path: Place) -> int:
    """How many parts of the path stand there."""
    for depth, part in enumerate(path):
        is_there = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if not is_there:
            return depth
        data = data[part]
    return len(path)
