"""Tables and models: the named objects of account > database > schema. Pure."""

from enum import StrEnum
from typing import Any

from luthier.platform.frozen import Frozen
from luthier.platform.names import as_written
from luthier.platform.options import Method
from luthier.platform.tasks import TaskType
from luthier.platform.told import Told


class TableInfo(Frozen):
    """A table of training data, kept as one Parquet file."""

    name: str
    """Dotted name."""
    owner: str
    path: str
    num_rows: int
    columns: list[str]
    created_on: int


class ViewInfo(Frozen):
    """A view: a query that is run with the rights of the role that owns it."""

    name: str
    """Dotted name."""
    owner: str
    role: str
    query: str
    """As it was written. Names in it without a place are looked for in the view's own schema."""
    reads: list[str]
    """The full names of tables and views in it, as often as they stand there."""
    gives: list[str]
    """The columns of the query, ..."""
    columns: list[str]
    """... and what they are called in the view."""
    comment: str = ""
    is_secure: bool = False
    """Its query is its owner's secret, and sees no row that the view does not show."""
    created_on: int

    @property
    def text(self) -> str:
        """The statement that makes it; empty where the query is not told."""
        if not self.query:
            return ""
        kind, columns = "SECURE VIEW" if self.is_secure else "VIEW", ", ".join(map(as_written, self.columns))
        comment = f" COMMENT = '{escaped}'" if (escaped := self.comment.replace("'", "''")) else ""
        return f"CREATE {kind} {self.name} ({columns}){comment} AS {self.query}"


class Opened(Frozen):
    """What a statement names that somebody may read: tables, and views with all that is beneath them, by full names."""

    named: tuple[TableInfo, ...] = ()
    asked: tuple[str, ...] = ()
    """Views that he may read himself."""
    views: dict[str, ViewInfo] = {}
    tables: dict[str, TableInfo] = {}
    """Beneath the views."""


INSIDE = ("job_id", "sha256", "rank", "method", "parent")
"""Fields of a version that are told to who may look into the model, and to no other account."""


class ModelVersion(Frozen):
    """An immutable version of a tuned model: a LoRA adapter, or weights, on disk, named by content."""

    number: int
    """Row id, never reused: the engine's LoRA id on every replica, so a new version never meets old weights."""
    model: str
    """Dotted name of the model."""
    version: int
    job_id: str | None
    """None: it was imported."""
    base_model: str
    path: str
    sha256: str
    rank: int
    """Of the adapter; 0 for full weights."""
    method: Method = Method.LORA
    task_type: TaskType = TaskType.CHAT_COMPLETION
    parent: str | None = None
    """The model or job whose weights it began with."""
    owner: str
    created_on: int
    origin: str | None = None
    """Whose it is and what it is called there, where another account shares it: ACCOUNT.DATABASE.SCHEMA.MODEL."""

    @property
    def own_name(self) -> str:
        """Without an account's name: what an engine that many accounts ask calls it."""
        return self.origin.partition(".")[2] if self.origin else self.model

    def told(self) -> dict[str, Any]:
        """What callers are shown: no folder, no number, which counts all accounts' versions, and of another account's
        model nothing of what it is made of."""
        inside = dict.fromkeys(INSIDE) if self.origin else {}
        return {**self.model_dump(exclude={"path", "number"}), **inside}


class ProofState(StrEnum):
    """Whether a version answers as its trainer measured it, by the last engine that loaded it."""

    UNPROVED = "unproved"
    PROVED = "proved"
    REFUSED = "refused"


class Proof(Frozen):
    state: ProofState = ProofState.UNPROVED
    reason: Told = ""
    """In words, unless it is proved."""
    checked_on: int | None = None


class Model(ModelVersion):
    """A model by one of its versions: the default, unless another was asked for."""

    default_version: int
    versions: int
    """How many there are."""
    aliases: dict[str, int]
    canary_version: int | None = None
    """Answers a share of the requests that name the model alone."""
    canary_share: float | None = None
    """Percent."""
    replica_of: str | None = None
    """The region that it was replicated from; it is changed there."""
    role: str = ""
    """That owns it; empty where it is another account's."""
    is_closed: bool = False
    """The caller may ask it, and not look into it."""

    def told(self) -> dict[str, Any]:
        told = super().told()
        del told["is_closed"]
        return {**told, **(dict.fromkeys(INSIDE) if self.is_closed else {})}


class VersionInfo(ModelVersion):
    """A version among the others of its model."""

    is_default: bool
    aliases: list[str]
    share: float
    """Percent of the requests that name the model alone."""
    training_loss: float | None = None
    validation_loss: float | None = None


class Serving(Frozen):
    """What a model's name means now."""

    default: ModelVersion
    canary: ModelVersion | None = None
    share: float = 0.0
    """The canary's, in percent."""
    before: ModelVersion | None = None
    """The default before this one."""
    lately: tuple[ModelVersion, ...] = ()
    """What it meant until moments ago."""


class Change(Frozen):
    """Who changed what a model's name means, and when."""

    id: int = 0
    """The first of a name has 1, the next 2; 0 until it is kept."""
    time: int
    user: str
    role: str
    verb: str
    version: int | None = None
    detail: str = ""


class ImportedModel(Frozen):
    """An adapter from elsewhere that was checked and has its folder."""

    base_model: str
    path: str
    sha256: str
    rank: int
    task_type: TaskType
    created_on: int


class Resolved(Frozen):
    """What answers a request: a base model, with or without an adapter on it."""

    name: str
    """As the caller calls it."""
    base_model: str
    adapter: ModelVersion | None = None

    @property
    def billed_as(self) -> str:
        """In the ledger: another account's model by the name that it has there."""
        return self.adapter.origin or self.name if self.adapter else self.name

    @property
    def version(self) -> int | None:
        return self.adapter.version if self.adapter else None

    @property
    def weights(self) -> ModelVersion | None:
        """The version, when it has all weights of its own."""
        return self.adapter if self.adapter and self.adapter.method is Method.FULL else None
