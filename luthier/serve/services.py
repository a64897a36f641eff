"""What the routes work with; built once a process and handed in, so that the HTTP app runs with or without Ray."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from email.utils import format_datetime
from typing import Any

from luthier.errors import NotServed
from luthier.platform.access import Caller
from luthier.platform.base_models import Catalog, check_can_serve, load_catalog, retirement_warning
from luthier.platform.finetune import Finetune
from luthier.platform.keys import Session
from luthier.platform.models import Model, ModelVersion
from luthier.platform.names import QualifiedName, parse_name
from luthier.platform.prices import PriceList, load_prices
from luthier.platform.registry.models import all_models
from luthier.platform.registry.registry import Registry
from luthier.platform.replicating import Replication
from luthier.platform.retirement import check_stands, end_of, warning_of
from luthier.platform.securables import ObjectKind, Securable, parse_in_schema, parse_securable
from luthier.platform.settings import Settings, configs_dir
from luthier.platform.versions import ModelName, parse_model
from luthier.platform.weights.importing import Imports
from luthier.serve.answer_room import AnswerRoom
from luthier.serve.asks import Completions
from luthier.serve.known import Epoch
from luthier.serve.metering.access_log import AccessLog
from luthier.serve.model_rights import ModelRights
from luthier.serve.nodes import Nodes
from luthier.serve.resolver import Resolver

MAX_LISTED = 10_000
"""Tuned models of a list without pages."""


async def no_full_models() -> dict[str, int]:
    return {}


async def no_nodes() -> Nodes:
    return Nodes()


@dataclass(frozen=True)
class Services:
    settings: Settings
    catalog: Catalog
    prices: PriceList
    registry: Registry
    finetune: Finetune
    imports: Imports
    replication: Replication
    epoch: Epoch
    resolver: Resolver
    model_rights: ModelRights
    completions: Completions
    answer_room: AnswerRoom
    access_log: AccessLog | None = None
    only: str | None = None
    """The base model whose engine is behind this door; None: no engine is. Models of others are asked there."""
    is_served: Callable[[str], Awaitable[bool]] | None = None
    """Whether another base model has an engine; None: the settings say, as long as this process runs."""
    full_models: Callable[[], Awaitable[dict[str, int]]] = no_full_models
    """Replicas of the applications of models with weights of their own."""
    nodes: Callable[[], Awaitable[Nodes]] = no_nodes
    """Of the cluster."""

    @property
    def base_models(self) -> tuple[str, ...]:
        """Those that answer here."""
        return (self.only,) if self.only else self.settings.serve_base_models

    def name(self, text: str) -> QualifiedName:
        """Of a table, a view, or a model as a whole; the settings say the database and schema that it lacks."""
        return parse_name(text, self.settings.database, self.settings.schema_name)

    def model_name(self, text: str) -> ModelName:
        """With the version, if it has one."""
        return parse_model(text, self.settings.database, self.settings.schema_name)

    def securable(self, kind: ObjectKind, text: str) -> Securable:
        return parse_securable(kind, text, self.settings.database, self.settings.schema_name)

    def in_schema(self, kind: ObjectKind, text: str) -> Securable:
        """What stands for the objects of a kind in a schema."""
        return parse_in_schema(kind, text, self.settings.database)

    def base_models_of(self, caller: Caller) -> list[str]:
        """Those that answer here, and may be asked by the caller. Blocks."""
        return self.registry.accounts.may_ask(caller, self.base_models)

    def models_of(self, caller: Caller) -> list[Model]:
        """Tuned models that answer here, as many as a list has at the most. Blocks."""
        return [each for each in all_models(self.registry.models, caller, MAX_LISTED) if self.answers_for(each)]

    def answers_for(self, version: ModelVersion) -> bool:
        return self.only in (None, version.base_model)

    def told(self, version: ModelVersion) -> dict[str, Any]:
        """What callers are shown of a tuned model; `warning` where its base model is retired, or will be."""
        today = datetime.now(UTC).date()
        end, warning = end_of(self.catalog, version, today), warning_of(self.catalog, version, today)
        return {**version.told(), "is_retired": end is not None, "warning": warning}

    async def base_model_of(self, caller: Caller, model: str) -> str:
        """The base model that answers for a name, and is served here; or the one that its own weights began as."""
        resolved = await self.resolver.resolve(caller, model)
        today = datetime.now(UTC).date()
        if resolved.adapter is None:
            await self.model_rights.check(caller, resolved.base_model)
            check_can_serve(self.catalog.get(resolved.base_model), today)
        else:
            check_stands(self.catalog, resolved.adapter, today)
        if resolved.weights is None and not await self._has_engine(resolved.base_model):
            raise NotServed(
                f"Base model {resolved.base_model} is not served here. Add it to serve_base_models, then "
                f"run `luthier up`."
            )
        return resolved.base_model

    def check_model(self, session: Session, model: str) -> None:
        """NotAllowed when the caller's key is for other models."""
        if session.scope.models is not None:
            session.check_model(*self.names_of(model))

    def check_tuned(self, session: Session, model: str) -> None:
        """The same where only tuned models are meant: one may be called as a base model is."""
        if session.scope.models is not None:
            session.check_model(*self._tuned_names(model))

    def check_job(self, session: Session, job_id: str) -> None:
        """The same of the model that a job makes. Blocks."""
        if session.scope.models is not None:
            self.check_tuned(session, self.registry.jobs.get(session.caller, job_id).model)

    def names_of(self, model: str) -> tuple[str, ...]:
        """A model's full name: with the version that is asked for, where one is, and without."""
        if base := self.catalog.find(model):
            return (base.name,)
        return self._tuned_names(model)

    def _tuned_names(self, model: str) -> tuple[str, ...]:
        name = self.model_name(model)
        full = name.name.dotted
        return (full,) if name.version is None else (f"{full}@{name.version}", full)

    async def _has_engine(self, base_model: str) -> bool:
        if base_model == self.only:
            return True
        if self.is_served is None:
            return base_model in self.settings.serve_base_models
        return await self.is_served(base_model)

    def retirement_headers(self, base_model: str) -> list[tuple[bytes, bytes]]:
        """Sunset (RFC 8594) and the warning in words, for the answers of a base model that will be retired."""
        base = self.catalog.get(base_model)
        warning = retirement_warning(base, datetime.now(UTC).date())
        if base.retired is None or warning is None:
            return []
        end = datetime.combine(base.retired.after, time.max, UTC)
        return [
            (b"sunset", format_datetime(end, usegmt=True).encode()),
            (b"luthier-warning", warning.encode("latin-1")),
        ]


def make_services(
    settings: Settings,
    registry: Registry,
    completions: Completions,
    only: str | None = None,
    access_log: AccessLog | None = None,
) -> Services:
    """The parts, put together over a registry and something that answers, for all base models or `only` one."""
    catalog, prices = load_catalog(settings), load_prices(configs_dir() / "prices.toml")
    epoch = Epoch(registry.versions.epoch)
    return Services(
        settings=settings,
        catalog=catalog,
        prices=prices,
        registry=registry,
        finetune=Finetune(settings, catalog, prices, registry),
        imports=Imports(settings, catalog, registry),
        replication=Replication(settings, catalog, registry),
        epoch=epoch,
        resolver=Resolver(settings, catalog, registry.versions, epoch),
        model_rights=ModelRights(registry.accounts, epoch),
        completions=completions,
        answer_room=AnswerRoom(settings),
        access_log=access_log,
        only=only,
    )
