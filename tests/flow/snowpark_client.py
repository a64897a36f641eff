"""Run by an interpreter that has Snowflake's clients and nothing of ours: asks a server, prints what they make of it.

python snowpark_client.py HOST PORT
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import snowflake.connector
from snowflake.cortex import complete
from snowflake.snowpark import Session
from snowflake.snowpark.functions import ai_complete, col, lit, prompt

SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
SHAPE = {"type": "json", "schema": SCHEMA}

host, port = sys.argv[1], int(sys.argv[2])
connection = snowflake.connector.connect(
    host=host, port=port, protocol="http", account="main", user="admin", password="none"
)
session = Session.builder.configs({"connection": connection}).create()
connection.scheme, connection._host = "http", f"{host}:{port}"  # snowflake.cortex has no setting for either
told: dict[str, Any] = {}


def tell(name: str, ask: Callable[[], Any]) -> None:
    try:
        told[name] = ask()
    except Exception as error:  # it is the answer
        told[name] = f"{type(error).__name__}: {error}"


def said(*columns: Any) -> list[Any]:
    rows = session.create_dataframe([["hello you"], ["it's"]], schema=["P"]).select(*columns).collect()
    return [list(row) for row in rows]


def cortex(model: str, given: Any, **options: Any) -> Any:
    return complete(model, given, session=session, options=options or None)


history = [{"role": "user", "content": "how are you"}]
streamed = {"session": session, "stream": True, "options": {"max_tokens": 2, "temperature": 0.1, "top_p": 0.3}}
tell("complete", lambda: cortex("tiny", "how are you"))
tell("complete, streamed", lambda: list(complete("tiny", history, **streamed)))
tell("complete, structured", lambda: cortex("tiny", '{"a": 1}', response_format=SHAPE))
tell("complete, cut", lambda: cortex("tiny", '{"a": 1}', response_format=SHAPE, max_tokens=1))
tell("complete, guarded", lambda: cortex("tiny", "x", guardrails=True))
tell("complete, unknown", lambda: cortex("nobody", "x"))
tell("complete, a column", lambda: said(cortex("tiny", col("P"))))
tell("complete, a column with options", lambda: said(cortex("tiny", col("P"), max_tokens=2)))
tell("ai_complete", lambda: said(ai_complete("tiny", col("P"))))
tell("ai_complete, a prompt", lambda: said(ai_complete("tiny", prompt("say {0}", col("P")))))
tell("ai_complete, structured", lambda: said(ai_complete("tiny", lit('{"a": 1}'), response_format=SHAPE)))
every = {"model_parameters": {"max_tokens": 2}, "show_details": True, "return_error_details": True}
tell("ai_complete, all arguments", lambda: said(ai_complete("tiny", col("P"), **every)))
tell("ai_complete, unknown", lambda: said(ai_complete("nobody", col("P"))))
tell("ai_complete, its error", lambda: said(ai_complete("nobody", col("P"), return_error_details=True)))
print(json.dumps(told))
