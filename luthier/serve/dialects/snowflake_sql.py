"""Snowflake's SQL: its Cortex functions, and the usage views.

Shapes: docs.snowflake.com, FINETUNE (SNOWFLAKE.CORTEX), COMPLETE (SNOWFLAKE.CORTEX) and AI_COMPLETE.
"""

import asyncio
import itertools
import re
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pyarrow as pa
from starlette.types import Scope

from luthier.errors import Unavailable
from luthier.platform.keys import Session
from luthier.platform.privileges import Action
from luthier.platform.sql.querying import open_engine
from luthier.platform.sql.sql_dialect import COUNT_DETAILED, trimmed
from luthier.platform.sql.sql_engine import SqlFunction
from luthier.platform.storage import Storage
from luthier.serve.admission import Admission
from luthier.serve.answer_room import Held
from luthier.serve.dialects import (
    snowflake_access,
    snowflake_databases,
    snowflake_models,
    snowflake_shares,
    snowflake_views,
)
from luthier.serve.dialects.account_usage import account_usage
from luthier.serve.dialects.snowflake_statements import Command, left, meaning
from luthier.serve.dialects.sql_body import Body
from luthier.serve.dialects.sql_functions import ai_complete, tokens
from luthier.serve.dialects.sql_functions.complete import complete, try_complete
from luthier.serve.dialects.sql_functions.finetune import finetune_of
from luthier.serve.dialects.sql_functions.rows import Call, Statement, each_row
from luthier.serve.dialects.sql_rows import Write
from luthier.serve.doors.auditing import REFUSED
from luthier.serve.services import Services
from luthier.serve.threads import ANSWERS, SQL

TIMEOUT_SECONDS = 3600.0
CORTEX = "SNOWFLAKE.CORTEX."
CALLING = {
    "COMPLETE": Action.CALL_COMPLETE,
    "TRY_COMPLETE": Action.CALL_TRY_COMPLETE,
    "AI_COMPLETE": Action.CALL_AI_COMPLETE,
    **dict.fromkeys(("COUNT_TOKENS", "AI_COUNT_TOKENS", COUNT_DETAILED), Action.COUNT_TOKENS),
}
"""What a function's caller must be allowed beside what it does; each verb of FINETUNE asks for that itself."""
BATCH_ROWS = 512
"""Of an answer: few, as each may be long, and what DuckDB hands over counts in no limit of its memory."""
MAX_WAITING = 256
"""Statements of a gateway, beside those that run."""
PLACES = Admission(SQL.num, MAX_WAITING, words="The gateway is busy: {} statements run or wait")

STATEMENTS = [
    *snowflake_models.statements,
    *snowflake_access.statements,
    *snowflake_shares.statements,
    *snowflake_databases.statements,
    *snowflake_views.statements,
]
"""All but queries, in the order in which they are tried."""


async def run_sql(services: Services, session: Session, statement: str, scope: Scope, write: Write) -> Body:
    """Runs one statement in a thread; completions inside it run on this loop. `scope` is the request's.

    It stops when this is cancelled; what it was refused is raised all the same, for the audit. Overloaded when there is
    no place for one more.
    """
    ids = (f"{scope['state']['id']}-{count}" for count in itertools.count())
    running = Statement(services, session, ids, asyncio.get_running_loop(), scope, copy_context())
    made = asyncio.ensure_future(_in_place(statement, running, write))
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        running.stop()
        if not running.has_begun:  # or its thread, which says so first, sees that it is unwanted
            made.cancel()
        made.add_done_callback(_unread)
        await asyncio.wait([made])
        if not made.cancelled() and getattr(made.exception(), "http", None) in REFUSED:
            made.result()
        raise


async def _in_place(text: str, statement: Statement, write: Write) -> Body:
    with PLACES.place(statement.caller.account, 1):
        return await SQL.run(_run, text, statement, write)


def _unread(made: asyncio.Future[Body]) -> None:
    if not made.cancelled() and made.exception() is None:
        ANSWERS.begin(made.result().close)


def _run(text: str, statement: Statement, write: Write) -> Body:
    """What is none of STATEMENTS is a query, if anything: every key with SQL may make one, and its functions see to
    themselves as they are called.
    """
    statement.has_begun = True
    if statement.unwanted.is_set():
        raise Unavailable("Who asked left before a thread was free.")
    services, caller, text = statement.services, statement.caller, trimmed(text)
    if meant := meaning(STATEMENTS, text):
        found, rule = meant
        if rule.is_change:
            statement.tell_change("statement", " ".join(text.split()))
        command = Command(services, statement.session, found.groupdict())
        rule.check(command)
        return _body(statement, left(command, rule.answer(command)).to_reader(), write)
    with account_usage(services, statement.session, text) as usage:
        extras: dict[str, Any] = {"functions": _functions(statement, text), "held": usage.views}
        extras |= {"timeout_seconds": TIMEOUT_SECONDS, "unwanted": statement.unwanted}
        with open_engine(services.settings, services.registry, caller, text, more=usage.files, **extras) as engine:
            return _body(statement, engine.query(text, BATCH_ROWS), write)


def _body(statement: Statement, rows: pa.RecordBatchReader, write: Write) -> Body:
    services = statement.services
    room = Held(services.answer_room, statement.caller.account)
    return Body(rows, write, room, Storage(services.settings.storage).scratch)


def _functions(statement: Statement, text: str) -> dict[str, SqlFunction]:
    """Those that the text names, as each costs DuckDB milliseconds; all if what it names looks like one: it may have
    misspelt it.

    The AI_ functions are found with and without their schema, the older ones with it.
    """
    services = statement.services
    made = [
        SqlFunction(f"{CORTEX}FINETUNE", range(1, 7), finetune_of(services.finetune, statement)),
        _json(f"{CORTEX}COMPLETE", (2, 3), complete(statement)),
        _json(f"{CORTEX}TRY_COMPLETE", (2, 3), try_complete(statement)),
        _json(f"{CORTEX}COUNT_TOKENS", (2,), each_row(tokens.count_tokens(services)), returns="BIGINT"),
    ]
    for schema in ("", CORTEX):
        completing, arities = ai_complete.ai_complete(statement), tokens.AI_ARITIES
        counting, detailed = tokens.ai_count_tokens(services), tokens.ai_count_tokens_detailed(services)
        made.append(_json(f"{schema}AI_COMPLETE", range(2, 7), completing, ai_complete.PARAMETERS))
        made.append(_json(f"{schema}AI_COUNT_TOKENS", arities, each_row(counting), returns="BIGINT"))
        made.append(_json(f"{schema}{COUNT_DETAILED}", arities, each_row(detailed)))
    words = set(re.findall(r"\w+", text.upper()))
    if "AI_COUNT_TOKENS" in words:
        words.add(COUNT_DETAILED)  # SQL's dialect may turn it into that
    named = [function for function in made if function.name.rpartition(".")[2] in words]
    if not named and any(word == "CORTEX" or word.startswith("AI") for word in words):
        named = made
    return {function.name: _let_called(statement, function) for function in named}


def _let_called(statement: Statement, function: SqlFunction) -> SqlFunction:
    """Asks once a statement, when it is called: a text may have a function's name in it and not call it."""
    action = CALLING.get(function.name.rpartition(".")[2])
    if action is None:
        return function
    check = cache(partial(statement.services.registry.grants.check, statement.caller, action))

    def call(columns: list[pa.Array]) -> pa.Array:
        check()
        return function.call(columns)

    return replace(function, call=call)


def _json(
    name: str, arities: Sequence[int], call: Call, parameters: tuple[str, ...] = (), returns: str = "VARCHAR"
) -> SqlFunction:
    return SqlFunction(name, arities, call, parameters, takes_json=True, returns=returns)
