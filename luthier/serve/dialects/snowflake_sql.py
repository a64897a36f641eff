"""Snowflake's SQL: FINETUNE, COMPLETE, TRY_COMPLETE, COUNT_TOKENS as functions, and the usage view.

Shapes: docs.snowflake.com, FINETUNE (SNOWFLAKE.CORTEX) and COMPLETE (SNOWFLAKE.CORTEX).
"""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
from pydantic import Field, ValidationError

from luthier.errors import InvalidInput, LuthierError
from luthier.platform.access import Caller
from luthier.platform.base_models import base_model_dir
from luthier.platform.finetune import open_engine
from luthier.platform.frozen import Frozen
from luthier.platform.metering import UsageKind
from luthier.platform.prices import to_credits
from luthier.platform.prompts import load_prompts
from luthier.platform.registry.ledger import HOUR_MS
from luthier.platform.sql_engine import SqlFunction
from luthier.platform.wire import (
    Chunk,
    CompleteRequest,
    CreateJob,
    options_from_json,
    snowflake_description,
    snowflake_row,
)
from luthier.serve.patience import patiently
from luthier.serve.services import Ask, Services

MAX_CONCURRENT = 64
TIMEOUT_SECONDS = 3600.0
FINE_TUNING_USAGE = "SNOWFLAKE.ACCOUNT_USAGE.CORTEX_FINE_TUNING_USAGE_HISTORY"

Cells = list[str | None]


class CompleteOptions(Frozen):
    """The options argument of COMPLETE; ranges and defaults as documented there."""

    temperature: float = Field(0.0, ge=0.0, le=1.0)
    top_p: float = Field(0.0, ge=0.0, le=1.0)
    max_tokens: int = Field(4096, ge=1, le=8192)


async def run_sql(services: Services, caller: Caller, statement: str, request_id: str) -> pa.Table:
    """Runs one statement in a thread; completions inside it run on this loop."""
    functions = _Functions(services, caller, request_id, asyncio.get_running_loop())
    return await asyncio.to_thread(_run, services, caller, statement, functions)


def _run(services: Services, caller: Caller, statement: str, functions: "_Functions") -> pa.Table:
    views = {}
    if "ACCOUNT_USAGE" in statement.upper():
        views[FINE_TUNING_USAGE] = _fine_tuning_usage(services, caller)
    tables = services.registry.tables.show(caller)
    extras = {"functions": functions.all(), "views": views, "timeout_seconds": TIMEOUT_SECONDS}
    with open_engine(services.settings, tables, **extras) as engine:
        return engine.table(statement)


class _Functions:
    """The functions of one statement."""

    def __init__(self, services: Services, caller: Caller, request_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self._services, self._caller, self._loop = services, caller, loop
        self._ids = (f"{request_id}-{count}" for count in itertools.count())
        self._room = asyncio.Semaphore(MAX_CONCURRENT)

    def all(self) -> dict[str, SqlFunction]:
        made = (
            SqlFunction("SNOWFLAKE.CORTEX.FINETUNE", range(1, 7), _each_row(self._finetune)),
            SqlFunction("SNOWFLAKE.CORTEX.COMPLETE", (2, 3), self._concurrently(self._complete)),
            SqlFunction("SNOWFLAKE.CORTEX.TRY_COMPLETE", (2, 3), self._concurrently(self._try_complete)),
            SqlFunction("SNOWFLAKE.CORTEX.COUNT_TOKENS", (2,), _each_row(self._count_tokens)),
        )
        return {function.name: function for function in made}

    def _finetune(self, row: Cells) -> str:
        verb = (row[0] or "").upper()
        takes = {"CREATE": (4, 6), "SHOW": (1, 1), "DESCRIBE": (2, 2), "CANCEL": (2, 2)}
        if verb not in takes:
            raise InvalidInput(f"FINETUNE: unknown operation {row[0]!r}; use CREATE, SHOW, DESCRIBE or CANCEL.")
        fewest, most = takes[verb]
        if not fewest <= len(row) <= most:
            takes_words = f"{fewest} to {most}" if fewest < most else str(most)
            raise InvalidInput(f"FINETUNE('{verb}') takes {takes_words} arguments, not {len(row)}.")
        finetune = self._services.finetune
        if verb == "SHOW":
            return json.dumps([snowflake_row(job) for job in finetune.show(self._caller)])
        if verb == "CREATE":
            return finetune.create(self._caller, _create_request(row)).id
        job_id = row[1] or ""
        if verb == "DESCRIBE":
            return json.dumps(snowflake_description(finetune.describe(self._caller, job_id)))
        return f"Canceled Cortex Fine-tuning job: {finetune.cancel(self._caller, job_id).id}"

    def _count_tokens(self, row: Cells) -> str | None:
        model, text = row
        if model is None or text is None:
            return None
        base = self._services.catalog.get(model)
        return str(len(load_prompts(base_model_dir(self._services.settings, base)).encode(text)))

    async def _complete(self, row: Cells) -> str | None:
        model, prompt = row[0], row[1]
        if model is None or prompt is None:
            return None
        request = _complete_request(model, prompt, row[2] if len(row) > 2 else None)
        base_model = await self._services.base_model_of(self._caller, model)
        ask = Ask(next(self._ids), self._caller, "COMPLETE", base_model, request)
        answer = await patiently(lambda: self._services.completions.whole(ask), TIMEOUT_SECONDS)
        return answer.choices[0].text if len(row) == 2 else _details(model, answer)

    async def _try_complete(self, row: Cells) -> str | None:
        try:
            return await self._complete(row)
        except (LuthierError, ValidationError):  # this is what TRY_ means
            return None

    def _concurrently(self, one: Callable[[Cells], Awaitable[str | None]]) -> Callable[[list[pa.Array]], pa.Array]:
        async def bounded(row: Cells) -> str | None:
            async with self._room:
                return await one(row)

        async def together(rows: list[Cells]) -> list[str | None]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(bounded(row)) for row in rows]
            return [task.result() for task in tasks]

        def call(columns: list[pa.Array]) -> pa.Array:
            future = asyncio.run_coroutine_threadsafe(together(_rows(columns)), self._loop)
            try:
                return pa.array(future.result(), pa.string())
            except ExceptionGroup as group:
                raise group.exceptions[0] from None

        return call


def _each_row(one: Callable[[Cells], str | None]) -> Callable[[list[pa.Array]], pa.Array]:
    return lambda columns: pa.array([one(row) for row in _rows(columns)], pa.string())


def _rows(columns: list[pa.Array]) -> list[Cells]:
    return [list(row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]


def _create_request(row: Cells) -> CreateJob:
    missing = [name for name, cell in zip(("name", "base model", "training query"), row[1:4], strict=True) if not cell]
    if missing:
        raise InvalidInput(f"FINETUNE('CREATE'): the {missing[0]} is missing.")
    validation, options = [*row[4:], None, None][:2]
    return CreateJob(
        model=row[1] or "",
        base_model=row[2] or "",
        training_data=row[3] or "",
        validation_data=validation,
        options=options_from_json(options),
    )


def _complete_request(model: str, prompt: str, options: str | None) -> CompleteRequest:
    messages = _messages(prompt) if options is not None else None
    chosen = CompleteOptions.model_validate(options_from_json(options) or {})
    return CompleteRequest(
        model=model,
        messages=messages or [{"role": "user", "content": prompt}],
        temperature=chosen.temperature,
        top_p=chosen.top_p or 1.0,
        max_tokens=chosen.max_tokens if options is not None and "max_tokens" in options else None,
    )


def _messages(prompt: str) -> list[dict[str, str]] | None:
    """A history of {role, content}; None when the prompt is plain text."""
    try:
        history = json.loads(prompt)
    except json.JSONDecodeError:
        return None
    if not isinstance(history, list):
        return None
    for turn in history:
        if not isinstance(turn, dict) or set(turn) != {"role", "content"} or not all(map(_is_text, turn.values())):
            raise InvalidInput("COMPLETE: each element of the history is {'role': ..., 'content': ...}, both text.")
    return history


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _details(model: str, answer: Chunk) -> str:
    """What COMPLETE answers when options are given. The key is `messages` and holds text."""
    assert answer.usage is not None
    counts = {**answer.usage.model_dump(), "total_tokens": answer.usage.total_tokens}
    body: dict[str, Any] = {
        "choices": [{"messages": answer.choices[0].text}],
        "created": int(time.time()),
        "model": model,
        "usage": counts,
    }
    return json.dumps(body)


def _fine_tuning_usage(services: Services, caller: Caller) -> pa.Table:
    """By base model and hour of job end; columns as documented for the view."""
    totals = services.registry.ledger.totals(caller, ["base_model", "hour"])
    rows = [row for row in totals if row["kind"] == UsageKind.TRAINING.value]
    hour = pa.timestamp("ms", tz="UTC")
    return pa.table(
        {
            "START_TIME": pa.array([row["hour"] for row in rows], hour),
            "END_TIME": pa.array([row["hour"] + HOUR_MS for row in rows], hour),
            "MODEL_NAME": pa.array([row["base_model"] for row in rows], pa.string()),
            "TOKEN_CREDITS": pa.array([to_credits(row["amount_ucr"]) for row in rows], pa.decimal128(38, 6)),
            "TOKENS": pa.array([row["trained_tokens"] for row in rows], pa.int64()),
        }
    )
