"""How functions run over the rows of a statement: JSON in, one value out, completions many at a time."""

import asyncio
import itertools
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextvars import Context
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from starlette.types import Scope

from luthier.errors import BaseModelRetired, LuthierError, NotAllowed
from luthier.platform.access import Caller
from luthier.platform.audit import asked
from luthier.platform.keys import Endpoint, Session
from luthier.platform.wire import Chunk, CompleteRequest
from luthier.serve.asks import Ask
from luthier.serve.doors.auditing import entry_of_row
from luthier.serve.services import Services

Row = list[Any]
Value = TypeVar("Value")
Call = Callable[[list[pa.Array]], pa.Array]

MAX_MESSAGES = 4
"""On their way at once: two fill an engine, two wait behind them. Others come in between."""


class Completion(NamedTuple):
    """What a row asks for, and what becomes of the answer."""

    request: CompleteRequest
    value: Callable[[Chunk], str]


@dataclass
class Statement:
    """What the functions of one statement share."""

    services: Services
    session: Session
    ids: Iterator[str]
    loop: asyncio.AbstractEventLoop
    """Completions run on it; the statement itself waits in a thread."""
    scope: Scope
    """The request's, for the audit."""
    context: Context
    """The request's: DuckDB may call functions in threads of its own."""
    changes: Iterator[int] = field(default_factory=itertools.count)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_MESSAGES))

    unwanted: threading.Event = field(default_factory=threading.Event)
    """Who asked has left."""
    has_begun: bool = False
    """In its thread."""
    _waits: set[Future[Any]] = field(default_factory=set)

    @property
    def caller(self) -> Caller:
        return self.session.caller

    def wait_for(self, answers: Coroutine[Any, Any, Value]) -> Value:
        """In the statement's thread. CancelledError where nobody waits for the statement any more."""
        if self.unwanted.is_set():  # cancelled on the loop, it would first be begun
            answers.close()
            raise CancelledError
        waits = asyncio.run_coroutine_threadsafe(answers, self.loop)
        self._waits.add(waits)
        try:
            if self.unwanted.is_set():
                waits.cancel()
            return waits.result()
        finally:
            self._waits.discard(waits)

    def stop(self) -> None:
        """What it asks for is taken back, and it ends."""
        self.unwanted.set()
        for waits in tuple(self._waits):
            waits.cancel()

    def tell_change(self, kind: str, name: str) -> None:
        """It is about to change something."""
        self.scope["state"].update(changes=True, object=(kind, name))

    def tell_row(self, action: str, kind: str, name: str) -> None:
        """A row is about to change something: the audit has it by itself. To be called in a context of the row's."""
        self.scope["state"].update(changes=True, has_told=True, action=action, object=(kind, name))
        entry = entry_of_row(self.scope, next(self.changes), action, kind, name)
        asked.set(lambda: entry)

    @cached_property
    def num_together(self) -> int:
        """Rows that go to a replica in one message: half of what an engine answers at once."""
        catalog, served = self.services.catalog, self.services.base_models
        return max(1, min((catalog.get(name).engine.max_num_seqs for name in served), default=1) // 2)


def each_row(one: Callable[[Row], str | None]) -> Call:
    return lambda columns: pa.array([one(row) for row in _rows(columns)], pa.string())


def as_text(value: Any) -> str | None:
    """A scalar as SQL casts it; None for NULL, and for arrays and objects."""
    if isinstance(value, str | None):
        return value
    return json.dumps(value) if isinstance(value, int | float) else None


class Completing:
    """A function that completes. `asked` gives what a row wants, None for NULL; `failed` what an error makes of it."""

    def __init__(
        self,
        statement: Statement,
        function: str,
        asked: Callable[[Row], Completion | None],
        failed: Callable[[Row, LuthierError], str | None],
    ) -> None:
        self._statement, self._function, self._asked, self._failed = statement, function, asked, failed

    def __call__(self, columns: list[pa.Array]) -> pa.Array:
        try:
            return pa.array(self._statement.wait_for(self._values(_rows(columns))), pa.string())
        except ExceptionGroup as group:
            raise _first(group) from None

    async def _values(self, rows: list[Row]) -> list[str | None]:
        values: list[str | None] = [None] * len(rows)
        size = self._statement.num_together
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(rows), size):
                group.create_task(self._fill(values, start, rows[start : start + size]))
        return values

    async def _fill(self, values: list[str | None], start: int, rows: list[Row]) -> None:
        """Writes these rows' values from `start` on. Rows that ask one model go to its replica together."""
        async with self._statement.room:
            by_model: dict[str, list[tuple[int, Completion, Ask]]] = defaultdict(list)
            for at, row in enumerate(rows):
                try:
                    if completion := self._asked(row):
                        ask = await self._ask(completion)
                        by_model[ask.request.model].append((at, completion, ask))
                except (NotAllowed, BaseModelRetired):  # of the statement, not of a row: it must not pass as a NULL
                    raise
                except LuthierError as error:
                    values[start + at] = self._failed(row, error)
            for together in by_model.values():
                chunks = await self._answers([ask for *_, ask in together])
                for (at, completion, _), chunk in zip(together, chunks, strict=True):
                    values[start + at] = self._value(rows[at], completion, chunk)

    async def _answers(self, asks: list[Ask]) -> list[Chunk | LuthierError]:
        try:
            return await self._statement.services.completions.many(asks)
        except LuthierError as error:  # of the way there: it is each row's
            return [error] * len(asks)

    async def _ask(self, completion: Completion) -> Ask:
        statement = self._statement
        statement.session.check(Endpoint.COMPLETIONS, False)
        statement.services.check_model(statement.session, completion.request.model)
        base_model = await statement.services.base_model_of(statement.caller, completion.request.model)
        return Ask(next(statement.ids), statement.caller, self._function, base_model, completion.request)

    def _value(self, row: Row, completion: Completion, answer: Chunk | LuthierError) -> str | None:
        try:
            if isinstance(answer, LuthierError):
                raise answer
            return completion.value(answer)
        except LuthierError as error:
            return self._failed(row, error)


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _rows(columns: list[pa.Array]) -> list[Row]:
    cells = ([None if text is None else json.loads(text) for text in column.to_pylist()] for column in columns)
    return [list(row) for row in zip(*cells, strict=True)]
