"""Who leaves a statement stops it: nobody pays for what nobody reads."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
from fastapi import FastAPI

from luthier.errors import NotAllowed
from luthier.platform.registry.audit import Search
from luthier.platform.registry.registry import Registry
from luthier.serve.dialects.snowflake_sql import PLACES
from luthier.serve.dialects.sql_functions.rows import Statement
from luthier.serve.threads import SQL
from tests.factories import ADMIN, ledger_of
from tests.fakes import EchoEngine
from tests.flow.conftest import call
from tests.flow.test_direct import client_of
from tests.waiting import SECONDS, until

ENDLESS = "SELECT count(*) FROM range(1000000000000000)"
ASKS = "SELECT SNOWFLAKE.CORTEX.COMPLETE('tiny', 'how are you') FROM range({})"


async def left(app: FastAPI, statement: str, is_time: Callable[[], bool]) -> None:
    """Asks, leaves when it is time, and waits for the statement's end."""
    body = json.dumps({"statement": statement}).encode()
    sent = await call(app, client_of(body, is_time), path="/luthier/v1/sql")
    assert sent[0]["status"] == 499
    await until(lambda: PLACES.num_taken == 0)


@pytest.mark.parametrize("num_rows", [1, 100])
def test_completions_of_a_statement_that_is_left_end(
    app: FastAPI, engine: EchoEngine, registry: Registry, num_rows: int
) -> None:
    engine.hangs_after = 2
    num_begun = list[int]()

    def all_hang() -> bool:
        num_begun.append(len(engine.asks))
        return bool(engine.num_hanging) and num_begun[-20:] == [num_begun[-1]] * 20

    asyncio.run(left(app, ASKS.format(num_rows), all_hang))
    assert engine.num_open == 0
    records = [(record.prompt_tokens, record.completion_tokens) for record in ledger_of(registry)]
    assert records == [(3, 2)] * len(engine.asks)
    assert len(engine.asks) == num_begun[-1] <= num_rows


def test_a_query_that_is_left_ends(app: FastAPI) -> None:
    asyncio.run(left(app, ENDLESS, lambda: PLACES.num_taken == 1))


def test_what_a_left_statement_would_ask_next_is_not_asked() -> None:
    asks = list[str]()

    async def ask() -> None:
        asks.append("one more")

    async def leave() -> None:
        nothing: Any = None
        loop = asyncio.get_running_loop()
        statement = Statement(nothing, nothing, iter(()), loop, {}, copy_context())
        statement.stop()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.to_thread(statement.wait_for, ask())

    asyncio.run(leave())
    assert asks == []


def test_a_refusal_to_who_has_left_is_in_the_audit(
    app: FastAPI, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def refuse(*_: object) -> None:
        assert may_end.wait(SECONDS)
        raise NotAllowed("Not for you.")

    monkeypatch.setattr(registry.roles, "create", refuse)

    def is_time() -> bool:
        if has_come := PLACES.num_taken == 1:
            asyncio.get_running_loop().call_later(0.05, may_end.set)
        return has_come

    body = json.dumps({"statement": "CREATE ROLE late"}).encode()
    sent = asyncio.run(call(app, client_of(body, is_time), path="/luthier/v1/sql"))
    assert sent[0]["status"] == 403
    monkeypatch.undo()
    newest, *_ = registry.audit.show(ADMIN, Search())
    assert (newest.status, newest.is_allowed) == (403, False)


def test_a_statement_that_waits_for_a_thread_and_is_left_never_begins(app: FastAPI, registry: Registry) -> None:
    """Its place is free at once, while all threads are busy."""
    may_end = threading.Event()

    async def scene() -> None:
        busy = [asyncio.create_task(SQL.run(may_end.wait, SECONDS)) for _ in range(SQL.num)]
        try:
            await left(app, "CREATE ROLE late", lambda: PLACES.num_taken == 1)
        finally:
            may_end.set()
        await asyncio.gather(*busy)
        await SQL.run(int)

    asyncio.run(scene())
    assert "LATE" not in [role.name for role in registry.roles.show(ADMIN)]
