"""A request for a completion, on its way from a door to the replica that answers it."""

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from luthier.errors import LuthierError
from luthier.platform.access import Caller
from luthier.platform.models import ModelVersion, Resolved
from luthier.platform.wire import Chunk, CompleteRequest
from luthier.serve.adapters.adapter_stats import AdapterStats

Answer = TypeVar("Answer")


@dataclass
class Told:
    """Whether a replica has written a request down, so that the door need not."""

    is_so: bool = False


class BodyRoom(ExitStack):
    """What a body takes of the room for all, until its prompt is read. Another process holds nothing of it."""

    def __reduce__(self) -> tuple[type["BodyRoom"], tuple[()]]:
        return BodyRoom, ()


@dataclass(frozen=True)
class Ask:
    """One request for a completion: who, what, through which door."""

    id: str
    caller: Caller
    function: str
    """COMPLETE or the route, for the ledger."""
    base_model: str
    """The one whose engine answers."""
    request: CompleteRequest
    is_billed: bool = True
    """False: who asks bills it, once the answer is safe."""
    resolved: Resolved | None = None
    """What the model's name meant when an engine was chosen by it."""
    told: Told = field(default_factory=Told, compare=False, repr=False)
    """One for all copies of this ask in a process."""
    room: BodyRoom = field(default_factory=BodyRoom, compare=False, repr=False)
    """Given back once the prompt is in tokens. What stays is the request, for each of the engine's places one: its
    prompt has at most the characters of a context window, and all else of it bounds of its own."""


class Completions(Protocol):
    """Answers of the replicas. To cancel a call, or to close the iterator of `stream`, aborts the generation."""

    async def whole(self, ask: Ask) -> Chunk: ...

    async def many(self, asks: Sequence[Ask]) -> list[Chunk | LuthierError]:
        """For each ask of one model its answer, or the error it ended in; there and back in one message."""

    def stream(self, ask: Ask) -> AsyncGenerator[Chunk, None]:
        """The last chunk carries the engine's token counts."""

    async def warm(self, version: ModelVersion) -> None:
        """Has the version loaded on all replicas of its base model."""

    async def ready(self) -> dict[str, bool]: ...

    async def adapters(self) -> list[AdapterStats]:
        """Of each replica that answers."""


async def or_error(work: Awaitable[Answer]) -> Answer | LuthierError:
    """The error in the place of the answer: for one of many, and because Serve logs with a traceback what is raised."""
    try:
        return await work
    except LuthierError as error:
        return error
