"""Snowflake's SQL: its Cortex functions, and the usage view.

Shapes: docs.snowflake.com, FINETUNE (SNOWFLAKE.CORTEX), COMPLETE (SNOWFLAKE.CORTEX) and AI_COMPLETE.
"""

import asyncio
import itertools
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from luthier.platform.access import Caller
from luthier.platform.finetune import open_engine
from luthier.platform.metering import UsageKind
from luthier.platform.prices import to_credits
from luthier.platform.registry.ledger import HOUR_MS
from luthier.platform.sql_dialect import COUNT_DETAILED
from luthier.platform.sql_engine import SqlFunction
from luthier.serve.dialects.snowflake_models import model_statement
from luthier.serve.dialects.sql_functions import ai_complete, tokens
from luthier.serve.dialects.sql_functions.complete import complete, try_complete
from luthier.serve.dialects.sql_functions.finetune import finetune_of
from luthier.serve.dialects.sql_functions.rows import Call, Statement, each_row
from luthier.serve.services import Services

TIMEOUT_SECONDS = 3600.0
FINE_TUNING_USAGE = "SNOWFLAKE.ACCOUNT_USAGE.CORTEX_FINE_TUNING_USAGE_HISTORY"
CORTEX = "SNOWFLAKE.CORTEX."
STATEMENTS = ThreadPoolExecutor(32, thread_name_prefix="sql")
"""Threads of their own: a statement waits for answers that need the loop's threads, of which a replica has five."""


async def run_sql(services: Services, caller: Caller, statement: str, request_id: str) -> pa.Table:
    """Runs one statement in a thread; completions inside it run on this loop."""
    ids = (f"{request_id}-{count}" for count in itertools.count())
    running = Statement(services, caller, ids, asyncio.get_running_loop())
    return await asyncio.get_running_loop().run_in_executor(STATEMENTS, _run, statement, running)


def _run(text: str, statement: Statement) -> pa.Table:
    services, caller = statement.services, statement.caller
    answer = model_statement(services, caller, text)
    if answer is not None:
        return answer
    views = {}
    if "ACCOUNT_USAGE" in text.upper():
        views[FINE_TUNING_USAGE] = _fine_tuning_usage(services, caller)
    tables = services.registry.tables.show(caller)
    extras = {"functions": _functions(statement, text), "views": views, "timeout_seconds": TIMEOUT_SECONDS}
    with open_engine(services.settings, tables, **extras) as engine:
        return engine.table(text)


def _functions(statement: Statement, text: str) -> dict[str, SqlFunction]:
    """Those that the text names, as each costs DuckDB milliseconds; all if it names none: it may have misspelt one.

    The AI_ functions are found with and without their schema, the older ones with it.
    """
    services = statement.services
    made = [
        SqlFunction(f"{CORTEX}FINETUNE", range(1, 7), finetune_of(services.finetune, statement.caller)),
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
    return {function.name: function for function in named or made}


def _json(
    name: str, arities: Sequence[int], call: Call, parameters: tuple[str, ...] = (), returns: str = "VARCHAR"
) -> SqlFunction:
    return SqlFunction(name, arities, call, parameters, takes_json=True, returns=returns)


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
